"""Asking storage which blocks there are, without ever waiting long for the answer."""

import logging
import threading
from collections.abc import Sequence
from time import monotonic

from vernal_worker.kv import LOGGER
from vernal_worker.kv.blockstore import BlockStore
from vernal_worker.kv.counters import PAUSES, Counters
from vernal_worker.kv.workers import Workers

_logger = logging.getLogger(LOGGER)
_CHUNK = 32  # keys a task


class Breaker:
    """Keeps the engine away from storage that hangs: open for `seconds` after each `trip`."""

    def __init__(self, seconds: float, counters: Counters) -> None:
        self._seconds = seconds
        self._counters = counters
        self._until = 0.0

    @property
    def open(self) -> bool:
        return monotonic() < self._until

    def trip(self, reason: str) -> None:
        if not self.open and self._seconds > 0:
            _logger.warning("KV store is not used for %.0f s: %s", self._seconds, reason)
            self._counters.add(PAUSES, 1, "load_slow")
        self._until = monotonic() + self._seconds

    def reset(self) -> None:
        self._until = 0.0


class Lookup:
    """Which blocks are in the stores of all ranks: a block that one rank lacks is of no use to the others."""

    def __init__(self, stores: Sequence[BlockStore], timeout: float, breaker: Breaker, counters: Counters) -> None:
        self._stores = stores
        self._timeout = timeout
        self._breaker = breaker
        self._counters = counters
        self._workers = Workers("vernal-kv-lookup", 8)

    def __call__(self, keys: Sequence[bytes]) -> list[bool]:
        """For each key, whether its block is known to be there; what storage did not say in time counts as absent."""
        present = [False] * len(keys)
        if self._breaker.open or not keys:
            return present
        chunks = [range(start, min(start + _CHUNK, len(keys))) for start in range(0, len(keys), _CHUNK)]
        left = threading.Semaphore(0)
        with self._counters.timed("lookup"):
            asked = [
                self._workers.submit(lambda chunk=chunk: self._ask(keys, chunk, present, left))  # type: ignore[misc]
                for chunk in chunks
            ]
            end = monotonic() + self._timeout
            answered = all(left.acquire(timeout=max(0.0, end - monotonic())) for _ in range(sum(asked)))
        if not answered:
            self._breaker.trip(f"no answer to a lookup within {self._timeout} s")
        return list(present)  # a copy: late answers write to the other

    def stop(self) -> None:
        self._workers.stop()

    def _ask(self, keys: Sequence[bytes], chunk: range, present: list[bool], left: threading.Semaphore) -> None:
        try:
            for index in chunk:
                present[index] = all(store.contains(keys[index]) for store in self._stores)
        finally:
            left.release()
