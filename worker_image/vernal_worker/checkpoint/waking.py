"""Filling the memory of a tree that CRIU has made, and letting it run: all of it at once, or some processes first.

Those that run first have their memory first. The others are stopped (SIGSTOP) while CRIU still holds them, so that they
come out of it standing still, without one instruction of their own, and go on (SIGCONT) when their memory is there.
"""

import os
import signal
import time
from collections.abc import Callable, Collection
from pathlib import Path
from typing import NamedTuple

from vernal_worker.checkpoint import process
from vernal_worker.checkpoint.criu import Patience
from vernal_worker.checkpoint.memory import Digests, fill
from vernal_worker.checkpoint.taken import Memory
from vernal_worker.checkpoint.timings import Timings


class Ahead(NamedTuple):
    """Processes that run first, and what begins then: it goes on while the memory of the others is filled."""

    pids: Collection[int]
    begin: Callable[[], None]


class Waking:
    """Of one tree. `timings` get `memory`, and `memory_rest` of those that run later."""

    def __init__(
        self,
        frozen: process.Frozen,
        directory: Path,
        digests: Digests | None,
        patience: Patience,
        ahead: Ahead | None,
        timings: Timings,
    ) -> None:
        """`directory`, `digests`: see `memory.fill`."""
        self._directory, self._digests, self._patience, self._timings = directory, digests, patience, timings
        self._begin = ahead.begin if ahead is not None else None
        first = set(frozen.pids if ahead is None else ahead.pids)
        self._later = [pid for pid in frozen.pids if pid not in first]
        self._first_memories = [memory for memory in frozen.memory if memory.pid in first]
        self._later_memories = [memory for memory in frozen.memory if memory.pid not in first]

    def prepare(self) -> None:
        """While CRIU holds all processes: fill the memory of those that run first. Raises: CheckpointError: see
        `memory.fill`; time is up."""
        self._timings["memory"] = self._fill(self._first_memories)

    def hold_back(self) -> None:
        """The last thing before CRIU lets them run."""
        for pid in self._later:
            os.kill(pid, signal.SIGSTOP)

    def finish(self) -> None:
        """When CRIU has let them run: begin what is to be done with the first ones, and let the others follow. Raises:
        CheckpointError: as `prepare`; what the beginning raises."""
        if self._begin is None:
            return
        self._begin()
        self._timings["memory_rest"] = self._fill(self._later_memories)
        for pid in self._later:
            os.kill(pid, signal.SIGCONT)

    def _fill(self, memories: list[Memory]) -> float:
        before = time.monotonic()
        self._patience.read("memory", lambda: fill(memories, self._directory, self._digests, self._patience.check))
        return time.monotonic() - before
