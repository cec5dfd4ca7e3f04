"""Moments as the API server writes them."""

from datetime import UTC, datetime

from pydantic import AwareDatetime, TypeAdapter

_MOMENT: TypeAdapter[datetime] = TypeAdapter(AwareDatetime)


def stamp(moment: float) -> str:
    """RFC 3339 in UTC, whole seconds."""
    return datetime.fromtimestamp(int(moment), UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def precise(moment: float) -> str:
    """RFC 3339 in UTC, with microseconds, for what happens several times a second."""
    return datetime.fromtimestamp(moment, UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def epoch(text: str) -> float:
    """Seconds since the epoch of what `stamp` or `precise` wrote, or whoever else within a status's schema (see
    `observe.views`)."""
    return _MOMENT.validate_python(text).timestamp()


def not_ahead(moment: float, now: float) -> float:
    """A moment that was noted when it was now. If it lies ahead, the clock was, and it counts from now on."""
    return min(moment, now)
