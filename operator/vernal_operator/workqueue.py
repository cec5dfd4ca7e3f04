"""Which keys are due: each at most once in the queue, and never handled by two threads at once."""

import heapq
import itertools
import threading
import time
from collections import deque
from typing import Generic, TypeVar

from vernal_operator import metrics

K = TypeVar("K")

_LONGEST_WAIT = 86400.0  # seconds: Python refuses to wait for more than 292 years, which an object may ask for


class WorkQueue(Generic[K]):
    """As client-go's: a key added while it waits is merged; one added while it is handled comes again
    afterwards.
    """

    def __init__(self) -> None:
        self._condition = threading.Condition()
        self._ready: deque[K] = deque()
        self._dirty: dict[K, float] = {}  # due: when it became so
        self._active: set[K] = set()
        self._later: list[tuple[float, int, K]] = []
        self._wakes: dict[K, float] = {}  # the earliest delayed addition of each key; others in the heap are void
        self._held: dict[K, float] = {}  # not before then, whatever is added
        self._order = itertools.count()
        self._closed = False

    def add(self, key: K) -> None:
        """Due now."""
        with self._condition:
            self._add(key)

    def add_after(self, key: K, seconds: float) -> None:
        """Due in `seconds`, unless it was added for an earlier time already."""
        with self._condition:
            self._wake(key, time.monotonic() + seconds)

    def hold(self, key: K, seconds: float) -> None:
        """Not due for `seconds`, even if it is added, and due then."""
        with self._condition:
            self._held[key] = time.monotonic() + seconds
            if key in self._ready:
                self._ready.remove(key)
            self._dirty.pop(key, None)
            self._wake(key, self._held[key])

    def get(self) -> K | None:
        """Wait for a due key and take it; None once the queue is closed. Call `done` afterwards."""
        with self._condition:
            while not self._closed:
                wait = self._promote()
                if self._ready:
                    key = self._ready.popleft()
                    metrics.QUEUE_SECONDS.observe(time.monotonic() - self._dirty.pop(key))
                    metrics.QUEUE_DEPTH.set(len(self._ready))
                    self._active.add(key)
                    return key
                self._condition.wait(None if wait is None else min(wait, _LONGEST_WAIT))
            return None

    def done(self, key: K) -> None:
        with self._condition:
            self._active.discard(key)
            if key in self._dirty:
                self._ready.append(key)
                self._condition.notify()

    def close(self) -> None:
        with self._condition:
            self._closed = True
            self._condition.notify_all()

    def _wake(self, key: K, at: float) -> None:
        if self._wakes.get(key, float("inf")) <= at:
            return
        self._wakes[key] = at
        heapq.heappush(self._later, (at, next(self._order), key))
        self._condition.notify_all()

    def _add(self, key: K) -> None:
        if key in self._dirty:
            return
        held = self._held.get(key)
        if held is not None:
            if held > time.monotonic():
                self._wake(key, held)
                return
            del self._held[key]
        self._dirty[key] = time.monotonic()
        if key not in self._active:
            self._ready.append(key)
            metrics.QUEUE_DEPTH.set(len(self._ready))
            self._condition.notify()

    def _promote(self) -> float | None:
        """Move what is due by now; returns seconds until the next, or None."""
        now = time.monotonic()
        while self._later:
            at, _, key = self._later[0]
            if self._wakes.get(key) == at and at > now:
                return at - now
            heapq.heappop(self._later)
            if self._wakes.get(key) == at:
                del self._wakes[key]
                self._add(key)
        return None
