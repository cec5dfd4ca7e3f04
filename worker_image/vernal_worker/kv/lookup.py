"""Asking storage how much of a prompt it has. Threads ask; the scheduler goes on, and comes back for the answer.

Only an unbroken prefix is of use, so nothing behind the first block that is not there is asked for. Prompts are saved
from their beginning and evicted from their end (docs/design/0022-kv-waits-for-nobody.md), so a block that is there
says of those before it that they most likely are: the prefix's end is found by bisection, and only the blocks around it
are asked for one by one. Where that is wrong a load fails, as it does for a block that has just been evicted, and the
block is asked for by itself from then on.
"""

import logging
import threading
from collections.abc import Callable, Iterable, Sequence
from itertools import takewhile
from time import monotonic

from vernal_worker.kv import LOGGER
from vernal_worker.kv.blockstore import BlockStore
from vernal_worker.kv.counters import PAUSES, SECONDS, Counters
from vernal_worker.kv.workers import Workers

_logger = logging.getLogger(LOGGER)
THREADS = 8
NEAR = 16
"""How many blocks before and behind the supposed end of a prefix are asked for one by one. More than are written at a
time: those of a prompt that is just being saved do not appear in order."""

KNOWN_SECONDS = 10.0
"""How long it is remembered which blocks were there. One question, for the last of them, then tells whether they are:
eviction begins at the end."""

_MOST_KNOWN = 65_536  # keys: 10 MB
_MOST_DOUBTED = 10_000
_MOST_LATE = 3  # lookups in a row
_MOST_TIMEOUTS = 4  # for one lookup, with what it waits for others


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


class Answer:
    """What storage says of one prompt's keys. `hits` belongs to the thread that asked, the rest to those that ask
    storage, one for each rank."""

    def __init__(self, keys: Sequence[bytes], ranks: int, overdue: Callable[["Answer"], bool]) -> None:
        self.keys = keys
        self.asked = monotonic()
        self.begun: float | None = None
        """When a thread took it up: what comes before is waiting for other lookups, not for storage."""
        self._overdue = overdue
        self._said = [0] * ranks  # leading keys that are there
        self._left = set(range(ranks))
        self._bound = len(keys)
        self._hits: int | None = None
        self._changed = threading.Condition()

    def hits(self, wait: float = 0.0) -> int | None:
        """How many of the keys, from the first on, are there for all ranks. None if that is not known within `wait`
        seconds: ask again later. Once it is a number it stays, and what storage did not say in time counts as absent.
        """
        with self._changed:
            if self._hits is None:
                self._changed.wait_for(lambda: not self._left, wait)
                if not self._left or self._overdue(self):
                    self._hits = min(self._said, default=0)
                    self._bound = 0
            return self._hits

    def begin(self) -> None:
        with self._changed:
            if self.begun is None:
                self.begun = monotonic()

    def wants(self, index: int) -> bool:
        """Whether it matters if this rank has the key: nobody waits any more, or another rank lacks one before it."""
        return index < self._bound

    def say(self, rank: int, count: int) -> None:
        """The first `count` keys are there."""
        with self._changed:
            self._said[rank] = count

    def end(self, rank: int) -> bool:
        """The rank has said what it can. Returns whether it was the last."""
        with self._changed:
            self._left.discard(rank)
            self._bound = min(self._bound, self._said[rank])
            self._changed.notify_all()
            return not self._left


class Lookup:
    """Which blocks are in the stores of all ranks: a block that one rank lacks is of no use to the others.

    Args:
        timeout: seconds that storage has for one prompt, from when it was asked. With the time that it waits for
            others a lookup takes four times as long at most.
        guess: whether a wrong answer costs no more than time. False where a failed load is a failed request: then each
            key is asked for, and nothing is remembered.
    """

    def __init__(
        self, stores: Sequence[BlockStore], timeout: float, breaker: Breaker, counters: Counters, *, guess: bool = True
    ) -> None:
        self._stores = stores
        self._timeout = timeout
        self._breaker = breaker
        self._counters = counters
        self._guess = guess
        self._workers = Workers("vernal-kv-lookup", THREADS)
        self._lock = threading.Lock()
        self._known: dict[bytes, float] = {}  # until when it is believed; the oldest first
        self._doubted: set[bytes] = set()
        self._heard = 0.0  # when storage last answered
        self._late = 0

    def ask(self, keys: Sequence[bytes]) -> Answer:
        """Begin to look `keys` up, which follow one another in a prompt."""
        if self._breaker.open or not keys:
            return NOTHING
        answer = Answer(keys, len(self._stores), self._overdue)
        for rank, store in enumerate(self._stores):
            if not self._workers.submit(lambda rank=rank, store=store: self._ask(answer, rank, store)):  # type: ignore[misc]
                answer.end(rank)
        return answer

    def doubt(self, lost: Iterable[bytes], behind: Iterable[bytes]) -> None:
        """`lost` could not be loaded: nothing is concluded about them any more. What comes `behind` is not known."""
        self._forget(behind)
        with self._lock:
            for key in lost:
                if len(self._doubted) < _MOST_DOUBTED:
                    self._doubted.add(key)

    def _forget(self, keys: Iterable[bytes]) -> None:
        with self._lock:
            for key in keys:
                self._known.pop(key, None)

    def stop(self) -> None:
        self._workers.stop()

    def _overdue(self, answer: Answer) -> bool:
        """Whether nobody waits any longer for `answer`. The store is left alone for a while if it said nothing at all
        meanwhile, or was too late several times in a row."""
        now = monotonic()
        silent = now - max(self._heard, answer.asked) >= self._timeout
        if not silent and (answer.begun is None or now - answer.begun < self._timeout):
            return now - answer.asked >= _MOST_TIMEOUTS * self._timeout
        self._late += 1
        if silent or self._late >= _MOST_LATE:
            self._breaker.trip(f"no answer to a lookup within {self._timeout} s")
        return True

    def _ask(self, answer: Answer, rank: int, store: BlockStore) -> None:
        """In a thread of its own: what one rank has."""
        answer.begin()
        try:
            answer.say(rank, self._leading(answer, rank, store))
        finally:
            if answer.end(rank):
                self._answered(answer)

    def _leading(self, answer: Answer, rank: int, store: BlockStore) -> int:
        keys = answer.keys

        def there(index: int) -> bool:
            found = store.contains(keys[index])
            self._heard = monotonic()
            return found

        with self._lock:
            now = monotonic()
            low = sum(1 for _ in takewhile(lambda key: self._known.get(key, 0.0) > now, keys))
            doubted = [index for index, key in enumerate(keys) if key in self._doubted] if self._doubted else []
        high = next((index for index in doubted if not there(index)), len(keys))
        if low > 0 and not there(low - 1):
            self._forget(keys[low - 1 :])
            low, high = 0, min(high, low - 1)
        answer.say(rank, low)
        sure = low
        if self._guess and high - low > NEAR:
            if not there(low):
                return low
            low, probe = low + 1, high - 1
            while high - low > NEAR and answer.wants(low):
                low, high = (probe + 1, high) if there(probe) else (low, probe)
                probe = (low + high) // 2
            sure = max(sure, low - NEAR)
        for index in range(sure, high):
            if not answer.wants(index) or not there(index):
                return index
            answer.say(rank, index + 1)
        return high

    def _answered(self, answer: Answer) -> None:
        assert answer.begun is not None
        now = monotonic()
        self._counters.add(SECONDS, now - answer.begun, "lookup")
        if now - answer.begun < self._timeout:
            self._late = 0
        hits = answer.hits()
        if not hits:
            return
        with self._lock:
            self._doubted.difference_update(answer.keys[:hits])
            if not self._guess:
                return
            for key in answer.keys[:hits]:
                self._known.pop(key, None)  # to the end
                self._known[key] = now + KNOWN_SECONDS
            while len(self._known) > _MOST_KNOWN:
                del self._known[next(iter(self._known))]


NOTHING = Answer((), 0, lambda answer: True)
"""The answer where there is nobody to ask."""
