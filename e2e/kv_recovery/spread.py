"""A measurement that was repeated, as a row of a table."""

import statistics
from collections.abc import Sequence


def row(what: str, seconds: Sequence[float]) -> str:
    """Median and extremes, in milliseconds."""
    middle, low, high = (value * 1000 for value in (statistics.median(seconds), min(seconds), max(seconds)))
    return f"  {what:<20} {middle:7.0f} ms  ({low:.0f} to {high:.0f}, {len(seconds)} times)"
