"""How long tests wait for what must come. No test passes or fails by speed: these bounds only end one that hangs, and
say what it waited for."""

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

GUARD_SECONDS = 2700.0
"""Of one wait: ten times the slowest one seen, the 240 s in which three workers start cold side by side on half a core.
pytest's own time-out (pyproject.toml) is twice as long, so that it is this one that speaks."""

POLL_SECONDS = 0.02


def until(what: str, probe: Callable[[], T | None], *, more: Callable[[], str] = str) -> T:
    """Call `probe` until it returns something true; that.

    Args:
        what: is waited for; for the message.
        more: what else to say if it never comes, such as a log.

    Raises:
        AssertionError: it did not come within `GUARD_SECONDS`.
    """
    deadline = time.monotonic() + GUARD_SECONDS
    while not (found := probe()):
        if time.monotonic() > deadline:
            raise AssertionError(f"{what}: not within {GUARD_SECONDS:.0f} s\n{more()}")
        time.sleep(POLL_SECONDS)
    return found
