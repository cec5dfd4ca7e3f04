"""A file whose content changes for as long as its writer lives: for who waits, and for the collector."""

import os
import threading
import time
from contextlib import suppress
from pathlib import Path

from vernal_worker import threads
from vernal_worker.store import fs

BEATS_PER_TTL = 6

SILENCE = 120.0
"""By the storage's clock: who has not written for so long is taken for dead by the collector (seconds). A beat comes
every few seconds, and a mount may show one a minute late (`acregmax`)."""


class Heartbeat:
    """Counts up in a new file at `path`, from a thread of its own, until `stop`.

    Args:
        note: stands behind the counter, for people.
        ttl: a beat comes `BEATS_PER_TTL` times in so many seconds.

    Raises:
        OSError: the file cannot be made.
    """

    def __init__(self, path: Path, ttl: float, note: str = "") -> None:
        fs.write_new(path, b"%020d %s" % (0, note.encode()))
        self.path = path
        self.last = time.monotonic()
        """When the last beat was written."""
        self._fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
        self._every = ttl / BEATS_PER_TTL
        self._stop = threading.Event()
        self._count = 0
        # At once: it begins with a pause.
        self._thread = threads.keep_running("heartbeat", self._run, threads.log_failure, pause=0.0)

    @property
    def stopped(self) -> bool:
        return self._stop.is_set()

    def stop(self) -> None:
        """End the thread; the file stays. Does not wait for storage that hangs."""
        self._stop.set()
        self._thread.join(1.0)

    def _run(self) -> None:
        while not self._stop.wait(self._every):
            self._count += 1
            with suppress(OSError):  # the storage may come back
                _write(self._fd, self._count)
                self.last = time.monotonic()
        with suppress(OSError):  # of a write that failed before: the descriptor is free all the same (close(2))
            os.close(self._fd)


def _write(fd: int, count: int) -> None:
    os.pwrite(fd, b"%020d" % count, 0)
    os.fsync(fd)


def beats(path: Path, now: float) -> bool:
    """Whether somebody has written to the file in the last `SILENCE` seconds before `now`, by the storage's clock."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)  # opened, because NFS then asks the server for its time
    except FileNotFoundError:
        return False
    try:
        return os.fstat(fd).st_mtime >= now - SILENCE
    finally:
        os.close(fd)


def note(path: Path) -> str:
    """What its writer wanted people to know, or the file's name."""
    with suppress(OSError, UnicodeDecodeError):
        return path.read_bytes()[21:].decode() or path.name
    return path.name
