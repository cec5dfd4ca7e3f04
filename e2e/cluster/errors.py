"""The one error that users see, and how progress is told to them."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager


class ClusterError(Exception):
    """Something the user can act on; its text says what failed and what to do next."""


def say(text: str) -> None:
    """Print one line of progress to stderr: stdout stays free for answers such as a path."""
    print(f"cluster: {text}", file=sys.stderr, flush=True)


@contextmanager
def step(text: str) -> Iterator[None]:
    """Announce a step, and say how long it took if anybody could have noticed."""
    say(text)
    began = time.monotonic()
    yield
    took = time.monotonic() - began
    if took >= 2:
        say(f"{text}: {took:.1f} s")
