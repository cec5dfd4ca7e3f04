"""Whether an engine gives the answers that it gave before it was frozen."""

from collections.abc import Callable

from vernal_worker.control.protocol import Canary
from vernal_worker.supervisor import log

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
    problems = [
        _first(number, before, now, expected.margins[number] if number < len(expected.margins) else [])
        for number, (before, now) in enumerate(zip(expected.answers, found.answers, strict=True))
        if before != now
    ]
    return "; ".join(problems) or None


def _first(number: int, before: list[int], now: list[int], margins: list[float]) -> str:
    at = next((i for i, (a, b) in enumerate(zip(before, now, strict=False)) if a != b), min(len(before), len(now)))
    margin = f", which was ahead by {margins[at]:.4g} in log probability" if at < len(margins) else ""
    return f"prompt {number}, token {at}: before the freeze {before[at : at + 1]}{margin}, now {now[at : at + 1]}"
