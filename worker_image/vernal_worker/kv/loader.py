"""Loading: threads read and verify blocks into slots; the engine's own thread copies from there into the KV cache.

That only one thread copies is what makes deadlines safe: a read that comes back after its load was given up finds
nobody who would copy it, so it cannot write into a block that meanwhile belongs to another request.
"""

import logging
import threading
from collections import deque
from collections.abc import Callable, Iterable, Sequence
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
    """

    request_id: str
    usable: int
    failures: dict[int, Failure]


@dataclass(eq=False)
class _Load:
    request_id: str
    blocks: Sequence[Block]
    deadline: float
    started: float
    pending: set[int]
    failures: dict[int, Failure] = field(default_factory=dict)  # by index
    first_failure: int | None = None
    over: bool = False
    message: str = ""  # of a failure

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

    @property
    def busy(self) -> bool:
        return bool(self._loads)

    def start(self, request_id: str, blocks: Sequence[Block], timeout: float) -> None:
        """Begin to load `blocks`, which follow one another in the prompt; `timeout` seconds from now it is over.

        From here on the load ends by `poll` alone, also where no thread can be had to read.
        """
        now = monotonic()
        load = _Load(request_id, blocks, now + timeout, now, set(range(len(blocks))))
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
            pause = min(end, *(load.deadline for load in self._loads)) - now
            batch = min(_BATCH, sum(len(load.pending) for load in self._loads))
            with self._changed:
                self._changed.wait_for(lambda batch=batch: len(self._outcomes) >= batch, min(pause, _BATCH_SECONDS))  # type: ignore[misc]

    def _read_one(self, load: _Load, index: int) -> None:
        """In a thread of its own: one block from storage into a slot."""
        slot: int | None = None
        failure: Failure | None = Failure.INTERNAL
        try:
            if load.useless(index):
                failure = Failure.SKIPPED
            elif (slot := self._slots.take(load.deadline - monotonic())) is None:
                failure = Failure.SLOW
            else:
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
        self._copying.append((fence, [move.slot for move in moves]))
        for outcome in owners:
            outcome.load.pending.discard(outcome.position)
        self._counters.add(BYTES, sum(len(self._slots.view(move.slot)) for move in moves), "read")

    def _recycle(self) -> None:
        waiting: list[tuple[Fence, list[int]]] = []
        for fence, slots in self._copying:
            if fence.done():
                self._slots.give_back(slots)
            else:
                waiting.append((fence, slots))
        self._copying = waiting

    def _finish(self) -> list[Loaded]:
        now = monotonic()
        loaded: list[Loaded] = []
        going_on: list[_Load] = []
        for load in self._loads:
            if load.complete():
                rest = Failure.SKIPPED
            elif now >= load.deadline:
                rest = Failure.SLOW
            else:
                going_on.append(load)
                continue
            load.over = True
            for index in sorted(load.pending):
                load.fail(index, rest)
            loaded.append(self._result(load, now))
        self._loads = going_on
        return loaded

    def _result(self, load: _Load, now: float) -> Loaded:
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
        )
