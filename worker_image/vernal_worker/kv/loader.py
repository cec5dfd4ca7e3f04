"""Loading: threads read and verify blocks into slots; the engine's own thread copies from there into the KV cache.

That only one thread copies is what makes deadlines safe: a read that comes back after its load was given up finds
nobody who would copy it, so it cannot write into a block that meanwhile belongs to another request.

A deadline is storage's alone. A load's clock runs while one of its reads is with storage, not while it waits for a
thread, a slot or the engine, and begins anew with each eighth of the load that arrives. Storage that answers no read of
any load for as long hangs: then those loads end too whose reads have not begun.
"""

import logging
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from time import monotonic
from typing import NamedTuple

from vernal_worker.kv import LOGGER
from vernal_worker.kv.blockfile import BlockError, Failure
from vernal_worker.kv.counters import BYTES, LOAD_FAILURES, SECONDS, Counters
from vernal_worker.kv.slots import Fence, Slots
from vernal_worker.kv.workers import Workers

_logger = logging.getLogger(LOGGER)
_BATCH = 16  # blocks: a copy into the KV cache costs one launch a layer, however many blocks it moves
_BATCH_SECONDS = 0.002
_PARTS = 8  # of a load: each has the time-out to itself
_SLOT_SECONDS = 0.01  # how often a thread that waits for a slot looks for copies that are over
_SAMPLE_BLOCKS = 64  # fewer, and sooner than
_SAMPLE_SECONDS = 1.0  # this, say more about one answer of storage than about how much it can do


class Block(NamedTuple):
    """A block in the store (`key`) and its place in the engine's KV cache (`block_id`)."""

    key: bytes
    block_id: int


class Move(NamedTuple):
    """A verified block on its way from a slot to the KV cache, or a block to save on its way back."""

    slot: int
    block_id: int


Reader = Callable[[str, bytes, memoryview], None]
"""(request, key, into): fills `into` with the verified block, or raises `BlockError`."""
Copier = Callable[[Sequence[Move]], Fence]


@dataclass(frozen=True)
class Loaded:
    """The end of a load.

    Attributes:
        usable: how many blocks were loaded before the first that was not.
        failures: why, for each block that was not loaded, by block id.
        hung: storage answered nobody meanwhile.
    """

    request_id: str
    usable: int
    failures: dict[int, Failure]
    hung: bool = False


@dataclass(eq=False)
class _Load:
    request_id: str
    blocks: Sequence[Block]
    timeout: float
    started: float
    pending: set[int]
    failures: dict[int, Failure] = field(default_factory=dict)  # by index
    first_failure: int | None = None
    over: bool = False
    message: str = ""  # of a failure
    reading: int = 0  # reads that are with storage
    waited: float = 0.0  # seconds for them, since a part arrived, up to `counted`
    counted: float = 0.0
    arrived: int = 0  # blocks since then

    def begin_read(self, now: float) -> None:
        if self.reading == 0:
            self.counted = now
        self.reading += 1

    def end_read(self, now: float, read: bool) -> None:
        self.waited += now - self.counted
        self.counted = now
        self.reading -= 1
        self.arrived += read
        if self.arrived >= max(1, len(self.blocks) // _PARTS):
            self.arrived, self.waited = 0, 0.0

    def overdue(self, now: float) -> bool:
        return self.reading > 0 and self.waited + now - self.counted >= self.timeout

    def useless(self, index: int) -> bool:
        """A block behind a failed one will be computed anyway: the engine wants an unbroken prefix."""
        return self.over or (self.first_failure is not None and index > self.first_failure)

    def fail(self, index: int, failure: Failure) -> None:
        self.failures[index] = failure
        if self.first_failure is None or index < self.first_failure:
            self.first_failure = index

    def complete(self) -> bool:
        return not self.pending or (self.first_failure is not None and min(self.pending) > self.first_failure)


class _Outcome(NamedTuple):
    load: _Load
    position: int
    slot: int | None
    failure: Failure | None


class Loader:
    """`start`, `poll` and `busy` belong to one thread, the engine's."""

    def __init__(self, read: Reader, slots: Slots, workers: Workers, counters: Counters) -> None:
        self._read = read
        self._slots = slots
        self._workers = workers
        self._counters = counters
        self._loads: list[_Load] = []
        self._outcomes: deque[_Outcome] = deque()
        self._changed = threading.Condition()
        self._copying: list[tuple[Fence, list[int]]] = []
        self._with_storage = 0  # reads, also of loads that were given up
        self._heard = 0.0  # when one of them last ended
        self._sample_since = 0.0
        self._sample_blocks = 0
        self._rate: float | None = None

    @property
    def busy(self) -> bool:
        return bool(self._loads)

    def start(self, request_id: str, blocks: Sequence[Block], timeout: float) -> None:
        """Begin to load `blocks`, which follow one another in the prompt.

        From here on the load ends by `poll` alone, also where no thread can be had to read.

        Args:
            timeout: seconds that storage has for each part of the load.
        """
        now = monotonic()
        load = _Load(request_id, blocks, timeout, now, set(range(len(blocks))))
        if not self._loads:
            self._sample_since, self._sample_blocks = now, 0
        self._loads.append(load)
        for index in range(len(blocks)):
            if not self._workers.submit(lambda index=index: self._read_one(load, index)):  # type: ignore[misc]
                load.message = "no thread to read with"
                with self._changed:
                    self._outcomes.append(_Outcome(load, index, None, Failure.INTERNAL))

    def poll(self, copy: Copier, wait: float = 0.0) -> list[Loaded]:
        """Copy what was verified into the KV cache and return the loads that are over.

        Args:
            copy: enqueues copies in the order of the engine's own work.
            wait: seconds to wait, at most, for the first load to be over if none is.
        """
        end = monotonic() + wait
        while True:
            self._recycle()
            self._take_outcomes(copy)
            loaded = self._finish()
            now = monotonic()
            if loaded or not self._loads or now >= end:
                return loaded
            batch = min(_BATCH, sum(len(load.pending) for load in self._loads))
            with self._changed:
                self._changed.wait_for(lambda batch=batch: len(self._outcomes) >= batch, min(end - now, _BATCH_SECONDS))  # type: ignore[misc]

    def take_rate(self) -> float | None:
        """Blocks a second, at the best time since the last call, if enough were loaded to tell."""
        rate, self._rate = self._rate, None
        return rate

    def stop(self) -> None:
        """Nobody polls any more: what is queued is not read."""
        for load in self._loads:
            load.over = True

    def _read_one(self, load: _Load, index: int) -> None:
        """In a thread of its own: one block from storage into a slot."""
        slot: int | None = None
        failure: Failure | None = Failure.INTERNAL
        try:
            if (slot := self._take_slot(load, index)) is None:
                failure = Failure.SKIPPED
            else:
                with self._reading(load):
                    self._read(load.request_id, load.blocks[index].key, self._slots.view(slot))
                failure = None
        except BlockError as error:
            failure = error.failure
            load.message = str(error)
        except Exception:
            _logger.exception("KV block not loaded for request %s", load.request_id)
        with self._changed:
            self._outcomes.append(_Outcome(load, index, slot, failure))
            self._changed.notify_all()

    def _take_slot(self, load: _Load, index: int) -> int | None:
        """None if the block is not wanted any more. Slots come back when their copies are over, whatever the engine's
        thread is doing: in a step it polls once."""
        while not load.useless(index):
            self._recycle()
            if (slot := self._slots.take(_SLOT_SECONDS)) is not None:
                return slot
        return None

    @contextmanager
    def _reading(self, load: _Load) -> Iterator[None]:
        """The time that storage takes."""
        with self._changed:
            now = monotonic()
            load.begin_read(now)
            if self._with_storage == 0:
                self._heard = now
            self._with_storage += 1
        read = False
        try:
            yield
            read = True
        finally:
            with self._changed:
                self._heard = monotonic()
                self._with_storage -= 1
                load.end_read(self._heard, read)

    def _silent(self, load: _Load, now: float) -> bool:
        """Whether storage answered nobody for the load's time-out, although it was asked."""
        return self._with_storage > 0 and now - max(self._heard, load.started) >= load.timeout

    def _take_outcomes(self, copy: Copier) -> None:
        with self._changed:
            outcomes = list(self._outcomes)
            self._outcomes.clear()
        verified: list[_Outcome] = []
        unused: list[int] = []
        for outcome in outcomes:
            load = outcome.load
            if outcome.failure is None and not load.useless(outcome.position):
                verified.append(outcome)
                continue
            if outcome.slot is not None:
                unused.append(outcome.slot)
            if not load.over:
                load.pending.discard(outcome.position)
                load.fail(outcome.position, outcome.failure or Failure.SKIPPED)
        self._slots.give_back(unused)
        self._copy(verified, copy)

    def _copy(self, verified: Iterable[_Outcome], copy: Copier) -> None:
        moves: list[Move] = []
        owners: list[_Outcome] = []
        for outcome in verified:
            assert outcome.slot is not None
            moves.append(Move(outcome.slot, outcome.load.blocks[outcome.position].block_id))
            owners.append(outcome)
        if not moves:
            return
        try:
            fence = copy(moves)
        except Exception:
            _logger.exception("verified KV blocks could not be copied into the KV cache")
            self._slots.give_back(move.slot for move in moves)
            for outcome in owners:
                outcome.load.pending.discard(outcome.position)
                outcome.load.fail(outcome.position, Failure.INTERNAL)
            return
        with self._changed:
            self._copying.append((fence, [move.slot for move in moves]))
        for outcome in owners:
            outcome.load.pending.discard(outcome.position)
        self._sample_blocks += len(moves)
        self._counters.add(BYTES, sum(len(self._slots.view(move.slot)) for move in moves), "read")

    def _recycle(self) -> None:
        waiting: list[tuple[Fence, list[int]]] = []
        with self._changed:
            for fence, slots in self._copying:
                if fence.done():
                    self._slots.give_back(slots)
                else:
                    waiting.append((fence, slots))
            self._copying = waiting

    def _finish(self) -> list[Loaded]:
        loaded: list[Loaded] = []
        going_on: list[_Load] = []
        with self._changed:
            now = monotonic()
            for load in self._loads:
                hung = not load.complete() and self._silent(load, now)
                if not (load.complete() or hung or load.overdue(now)):
                    going_on.append(load)
                    continue
                rest = Failure.SKIPPED if load.complete() else Failure.SLOW
                load.over = True
                for index in sorted(load.pending):
                    load.fail(index, rest)
                loaded.append(self._result(load, now, hung))
        if loaded:
            self._measure(now)
        self._loads = going_on
        return loaded

    def _measure(self, now: float) -> None:
        seconds = now - self._sample_since
        if self._sample_blocks >= _SAMPLE_BLOCKS or seconds >= _SAMPLE_SECONDS:
            if self._sample_blocks and seconds > 0:
                self._rate = max(self._rate or 0.0, self._sample_blocks / seconds)
            self._sample_since, self._sample_blocks = now, 0

    def _result(self, load: _Load, now: float, hung: bool) -> Loaded:
        if load.failures:
            _logger.warning(
                "request %s: %d of %d KV blocks not loaded, because of: %s",
                load.request_id,
                len(load.failures),
                len(load.blocks),
                load.message or ", ".join(sorted(set(load.failures.values()))),
            )
        for failure in load.failures.values():
            self._counters.add(LOAD_FAILURES, 1, failure)
        self._counters.add(SECONDS, now - load.started, "load")
        return Loaded(
            load.request_id,
            len(load.blocks) if load.first_failure is None else load.first_failure,
            {load.blocks[index].block_id: failure for index, failure in sorted(load.failures.items())},
            hung,
        )
