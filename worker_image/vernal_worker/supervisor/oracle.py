"""Whether an engine gives the answers that it gave before it was frozen."""

import math
from collections.abc import Callable

from vernal_worker.control.protocol import Canary
from vernal_worker.supervisor import log

TOLERANCE = 0.02
"""For values instead of tokens: bfloat16 has 8 bits, and sums over hundreds of them add up in any order. Those of
another model differ by the size of the values themselves."""

TRIES = 2
"""Arithmetic on a GPU need not be the same twice, so two tokens that are as good as equal may change places."""


def check(ask: Callable[[], Canary], expected: Canary) -> str | None:
    """None if it does, at the second try at the latest; else what differs, for people."""
    for turn in range(TRIES):
        if (problem := difference(expected, ask())) is None:
            return None
        log.event("canary_differs", turn=turn + 1, message=problem)
    return problem


def difference(expected: Canary, found: Canary) -> str | None:
    """Where the answers differ first in each prompt; None if they do nowhere. Margins only explain."""
    if found.prompts != expected.prompts:
        return "the engine was asked other prompts than before the freeze"
    if len(found.vectors) != len(expected.vectors) or len(found.answers) != len(expected.answers):
        return "the engine has another task than before the freeze"
    problems = [
        _first(number, before, now, expected.margins[number] if number < len(expected.margins) else [])
        for number, (before, now) in enumerate(zip(expected.answers, found.answers, strict=True))
        if before != now
    ]
    problems += [
        _apart(number, before, now)
        for number, (before, now) in enumerate(zip(expected.vectors, found.vectors, strict=True))
        if not _is_near(before, now)
    ]
    return "; ".join(problems) or None


def _is_near(before: list[float], now: list[float]) -> bool:
    """Of equal length, and nowhere further apart than arithmetic in few bits explains. Not a number is near nothing."""
    return len(before) == len(now) and _distance(before, now) <= TOLERANCE


def _distance(before: list[float], now: list[float]) -> float:
    """The largest difference, as a part of the largest value."""
    largest = max(map(abs, before), default=0.0) or 1.0
    differences = [abs(a - b) / largest for a, b in zip(before, now, strict=True)]
    return max((math.inf if math.isnan(each) else each for each in differences), default=0.0)


def _apart(number: int, before: list[float], now: list[float]) -> str:
    if len(before) != len(now):
        return f"prompt {number}: before the freeze {len(before)} values, now {len(now)}"
    return (
        f"prompt {number}: values differ by up to {_distance(before, now):.2g} of the largest, {TOLERANCE:g} is allowed"
    )


def _first(number: int, before: list[int], now: list[int], margins: list[float]) -> str:
    at = next((i for i, (a, b) in enumerate(zip(before, now, strict=False)) if a != b), min(len(before), len(now)))
    margin = f", which was ahead by {margins[at]:.4g} in log probability" if at < len(margins) else ""
    return f"prompt {number}, token {at}: before the freeze {before[at : at + 1]}{margin}, now {now[at : at + 1]}"
