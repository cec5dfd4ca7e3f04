"""Which requests have woken pools, for as long as an operator may ask."""

import time
from collections import deque
from collections.abc import Callable, Iterator

from vernal_contract.wakes import Wake

KEPT = 1024
KEPT_SECONDS = 3600.0
"""Longer than a start takes from the write to its end, which is when the operator asks."""


class Wakes:
    """For one event loop. The last `KEPT` of all pools."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._kept: deque[tuple[float, Wake]] = deque(maxlen=KEPT)

    def add(self, wake: Wake) -> None:
        self._kept.append((self._clock() + KEPT_SECONDS, wake))

    def of(self, uid: str) -> Iterator[Wake]:
        """Those of one pool, the newest last."""
        now = self._clock()
        while self._kept and self._kept[0][0] <= now:
            self._kept.popleft()
        return (wake for _, wake in self._kept if wake.uid == uid)
