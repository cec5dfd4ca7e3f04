"""Keeping the store below its size limit: the blocks that were used least recently go first.

Every worker that saves does this for the whole store, without a lock. Two that do it at once choose the same victims,
because they see the same files and times; a victim that is gone already is not counted as freed.
"""

import logging
import os
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from vernal_worker.kv import LOGGER
from vernal_worker.kv.blockfile import SUFFIX, TEMPORARY_SUFFIX
from vernal_worker.kv.counters import EVICTED_BLOCKS, Counters
from vernal_worker.kv.workers import Workers

_logger = logging.getLogger(LOGGER)

LOW_WATER = 0.9
"""An eviction goes on until the store is at this part of the limit, so that not every save needs one."""

RESCAN_SECONDS = 60.0
_ABANDONED_SECONDS = 3600.0  # a temporary file this old belongs to a writer that died
_BLOCK = 4096


@dataclass(frozen=True)
class Entry:
    """A file of the store. `used` is its modification time, in seconds since the epoch."""

    path: str
    bytes: int
    used: float


@dataclass(frozen=True)
class Evicted:
    """`bytes_before` and `bytes_after` of the whole store; `files` removed."""

    bytes_before: int
    bytes_after: int
    files: int


def scan(root: Path) -> Iterator[Entry]:
    """All block files and temporary files of all layouts. What vanishes meanwhile is left out."""
    pending = [os.fspath(root)]
    while pending:
        try:
            with os.scandir(pending.pop()) as entries:
                for entry in entries:
                    if entry.is_dir(follow_symlinks=False):
                        pending.append(entry.path)
                    elif entry.name.endswith((SUFFIX, TEMPORARY_SUFFIX)):
                        try:
                            status = entry.stat(follow_symlinks=False)
                        except OSError:
                            continue
                        size = -(-status.st_size // _BLOCK) * _BLOCK
                        yield Entry(entry.path, size, status.st_mtime)
        except OSError:
            continue


def evict(root: Path, limit_bytes: int | None) -> Evicted:
    """Remove the least recently used blocks until the store is at `LOW_WATER` of the limit, if it is above the limit.

    Args:
        limit_bytes: None means that the disk is full: free a tenth of what the store has.
    """
    now = time.time()
    entries = list(scan(root))
    total = before = sum(entry.bytes for entry in entries)
    files = 0
    target = int((before if limit_bytes is None else limit_bytes) * LOW_WATER)
    if limit_bytes is not None and before <= limit_bytes:
        target = before
    for entry in sorted(entries, key=lambda entry: (entry.used, entry.path)):
        temporary = entry.path.endswith(TEMPORARY_SUFFIX)
        abandoned = temporary and now - entry.used > _ABANDONED_SECONDS
        if not abandoned and (temporary or total <= target):
            continue
        try:
            Path(entry.path).unlink()
            files += 1
        except FileNotFoundError:
            pass  # another worker evicts the same
        except OSError:
            continue
        total -= entry.bytes
    return Evicted(before, total, files)


class SizeLimit:
    """Has the store shrunk, in a thread of its own, when it may have grown over `limit_bytes`.

    Between two scans only this worker's own writes are known, so with n workers the store may be larger by what the
    others write in `RESCAN_SECONDS`.
    """

    def __init__(self, root: Path, limit_bytes: int | None, counters: Counters) -> None:
        self._root = root
        self._limit = limit_bytes
        self._counters = counters
        self._workers = Workers("vernal-kv-evict", 1)
        self._lock = threading.Lock()
        self._running = False
        self._estimate = 0
        self._scanned = -RESCAN_SECONDS

    def added(self, size: int) -> None:
        """This worker wrote a block of `size` bytes."""
        if self._limit is None:
            return
        with self._lock:
            self._estimate += size
            due = self._estimate > self._limit or time.monotonic() - self._scanned >= RESCAN_SECONDS
        if due:
            self._start(self._limit)

    def full(self) -> None:
        """The storage said that it is full."""
        self._start(None)

    def wait(self, timeout: float) -> bool:
        """Wait for the eviction that runs, `timeout` seconds at most; returns whether none runs any more."""
        return self._workers.drain(timeout)

    def _start(self, limit: int | None) -> None:
        with self._lock:
            if self._running:
                return
            self._running = True
        if not self._workers.submit(lambda: self._run(limit)):
            with self._lock:
                self._running = False

    def _run(self, limit: int | None) -> None:
        try:
            evicted = evict(self._root, limit)
            self._counters.add(EVICTED_BLOCKS, evicted.files)
            if evicted.files:
                _logger.info(
                    "KV store: %d blocks evicted, %.1f -> %.1f MiB",
                    evicted.files,
                    evicted.bytes_before / 2**20,
                    evicted.bytes_after / 2**20,
                )
            with self._lock:
                self._estimate = evicted.bytes_after
                self._scanned = time.monotonic()
        finally:
            with self._lock:
                self._running = False
