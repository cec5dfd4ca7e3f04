"""The worker's state as `GET /state` shows it, shared between the main thread and the admin server's
threads."""

import contextlib
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
from vernal_contract.state import Phase, RestoreFailure, WorkerState

from vernal_worker.checkpoint.timings import Timings
from vernal_worker.supervisor import log


def process_age() -> float:
    """Seconds since this process was started by the kernel: so the interpreter's own start counts."""
    fields = Path("/proc/self/stat").read_text().rpartition(")")[2].split()
    started = int(fields[19]) / os.sysconf("SC_CLK_TCK")  # field 22 of proc(5), "starttime"
    return time.clock_gettime(time.CLOCK_BOOTTIME) - started


class Board:
    """Holds one `WorkerState`. Writers go through these methods; readers get copies."""

    def __init__(self, state: WorkerState) -> None:
        self._lock = threading.Lock()
        self._state = state
        self._started = time.monotonic() - process_age()
        self.at_leisure = threading.Event()
        """Set when this process begins to wait for another: CRIU, or an engine that loads. What need not be done before
        is done then."""

    def update(self, **fields: Any) -> None:
        """Set fields of the state. The names are those of `WorkerState`."""
        with self._lock:
            for name, value in fields.items():
                setattr(self._state, name, value)

    def phase(self, phase: Phase, **fields: object) -> None:
        """Go to `phase`, and log it with `fields`. Leaving Ready withdraws readiness."""
        with self._lock:
            self._state.phase = phase
            self._state.ready = phase is Phase.READY
        log.event("phase", phase=phase, **fields)

    def failed_restore(self, failure: RestoreFailure) -> None:
        with self._lock:
            self._state.restore_failures = [*self._state.restore_failures, failure]

    @contextlib.contextmanager
    def timed(self, name: str) -> Iterator[None]:
        """Record how long the block took, also when it raised, as timing `name`."""
        began = time.monotonic()
        try:
            yield
        finally:
            self.timing(name, time.monotonic() - began)

    def timing(self, name: str, seconds: float, ended: float | None = None) -> None:
        """Record how long a phase took. `ended`: when it was over, by `time.monotonic`; now if it is None."""
        begun = (time.monotonic() if ended is None else ended) - seconds - self._started
        with self._lock:
            self._state.timings = {**self._state.timings, name: round(seconds, 4)}
            self._state.begun = {**self._state.begun, name: round(begun, 4)}

    def timings(self, found: Timings, prefix: str = "") -> None:
        """The same of several phases, whose names begin with `prefix` here."""
        for name, seconds in found.items():
            self.timing(f"{prefix}{name}", seconds, found.ended[name])

    def snapshot(self) -> WorkerState:
        """A copy of the state as of now."""
        with self._lock:
            state = msgspec.structs.replace(self._state)
        state.uptime = round(process_age(), 3)
        return state
