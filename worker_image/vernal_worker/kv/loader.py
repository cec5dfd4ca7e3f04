"""Loading: threads read and verify blocks into slots, from where they are copied into the KV cache.

Who copies: the engine's own thread; or, where the device has a stream for it (`CopyStream`), the thread that read, if
the load is not over. Either way a read that comes back after its load was given up finds nobody who would copy it, so
it cannot write into a block that meanwhile belongs to another request.

A deadline is storage's alone. A load's clock runs while one of its reads is with storage, not while it waits for a
thread, a slot or the engine, and begins anew with each eighth of the load that arrives. Storage that answers no read of
any load for as long hangs: then those loads end too whose reads have not begun.

What a block costs beside its bytes counts: all threads need the interpreter for it, the engine's as well. So a thread
takes up several blocks at a time, and wakes the engine's only where that has something to do.
"""

import logging
import threading
from collections import deque
from collections.abc import Callable, Sequence
from time import monotonic
from typing import NamedTuple, Protocol

from vernal_worker.kv import LOGGER
from vernal_worker.kv.blockfile import BlockError, Failure
from vernal_worker.kv.counters import BYTES, LOAD_FAILURES, SECONDS, Counters
from vernal_worker.kv.loads import Block, Load, Loaded, Move, Speed
from vernal_worker.kv.slots import Fence, Slots
from vernal_worker.kv.workers import Workers

_logger = logging.getLogger(LOGGER)
_BATCH = 16  # blocks that the engine's thread copies at a time, if they come soon
_BATCH_SECONDS = 0.002
_SLOT_SECONDS = 0.01  # how often a thread that waits for a slot looks for copies that are over

Reader = Callable[[str, bytes, memoryview], None]
"""(request, key, into): fills `into` with the verified block, or raises `BlockError`."""
Copier = Callable[[Sequence[Move]], Fence]


class CopyStream(Protocol):
    """Copies into the KV cache that a device does beside the engine's work.

    `copy` is called by any thread, but never by two at a time; the others by the engine's, between the works that it
    gives the device.
    """

    def mark(self) -> None:
        """A step begins. What the device was given so far may still use blocks that the step hands out to loads; its
        own work does not."""

    def begin(self) -> None:
        """Copies from now on come after all that the device was given before the last mark, or, without one, so far."""

    def copy(self, moves: Sequence[Move]) -> Fence:
        """Enqueue copies from slots into the KV cache."""

    def end(self) -> None:
        """What the device is given from now on comes after all copies so far."""


class _Outcome(NamedTuple):
    load: Load
    position: int
    slot: int | None  # None: it is not in use any more, or `copied`
    failure: Failure | None
    copied: bool = False


class Loader:
    """`mark`, `start`, `poll` and `busy` belong to one thread, the engine's."""

    def __init__(
        self, read: Reader, slots: Slots, workers: Workers, counters: Counters, stream: CopyStream | None = None
    ) -> None:
        self._read = read
        self._slots = slots
        self._slot_bytes = len(slots.view(0))
        self._workers = workers
        self._counters = counters
        self._stream = stream
        self._copy_lock = threading.Lock()  # held while a copy is enqueued, and while loads are ended
        self._loads: list[Load] = []
        self._outcomes: deque[_Outcome] = deque()
        self._changed = threading.Condition()
        self._enough: int | None = None  # outcomes for which the engine's thread waits
        self._copying: deque[tuple[Fence, list[int]]] = deque()
        self._with_storage = 0  # threads with reads, also of loads that were given up
        self._heard = 0.0  # when a read last ended
        self._speed = Speed()

    @property
    def busy(self) -> bool:
        return bool(self._loads)

    def mark(self) -> None:
        """A step begins, whose loads are not started yet."""
        if self._stream is not None:
            self._stream.mark()

    def start(self, request_id: str, blocks: Sequence[Block], timeout: float) -> None:
        """Begin to load `blocks`, which follow one another in the prompt.

        From here on the load ends by `poll` alone, also where no thread can be had to read.

        Args:
            timeout: seconds that storage has for each part of the load.
        """
        now = monotonic()
        load = Load(request_id, blocks, timeout, now)
        if self._stream is not None:
            self._stream.begin()
        if not self._loads:
            self._speed.begin(now)
        self._loads.append(load)
        readers = min(self._workers.size, -(-len(blocks) // load.run))
        submitted = [self._workers.submit(lambda: self._read_all(load)) for _ in range(readers)]
        if not any(submitted):
            load.message = "no thread to read with"
            with self._changed:
                self._outcomes.extend(_Outcome(load, index, None, Failure.INTERNAL) for index in range(len(blocks)))

    def poll(self, copy: Copier, wait: float = 0.0) -> list[Loaded]:
        """Have what was verified copied into the KV cache and return the loads that are over.

        Args:
            copy: enqueues copies in the order of the engine's own work. Not used where there is a stream for them.
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
            pending = sum(len(load.pending) for load in self._loads)
            enough = pending if self._stream is not None else min(_BATCH, pending)
            with self._changed:
                self._enough = enough if len(self._outcomes) < enough else None
                self._changed.wait_for(lambda: self._enough is None, min(end - now, _BATCH_SECONDS))
                self._enough = None

    def take_rate(self) -> float | None:
        """Blocks a second, at the best time since the last call, if enough were loaded to tell."""
        return self._speed.take()

    def stop(self) -> None:
        """Nobody polls any more: what is queued is not read, and nothing more is copied."""
        with self._copy_lock:
            for load in self._loads:
                load.over = True

    # In threads of their own.

    def _read_all(self, load: Load) -> None:
        while slots := self._take_slots(load):
            with self._changed:
                positions = load.take(len(slots))
                if positions:
                    self._begin_read(load)
            self._slots.give_back(slots[len(positions) :])
            if positions:
                self._read_some(load, positions, slots)

    def _take_slots(self, load: Load) -> list[int]:
        """Empty if no block is wanted any more. Slots come back when their copies are over, whatever the engine's
        thread is doing: in a step it polls once."""
        while load.wanted():
            self._recycle()
            if slots := self._slots.take_some(load.run, _SLOT_SECONDS):
                return slots
        return []

    def _read_some(self, load: Load, positions: range, slots: Sequence[int]) -> None:
        outcomes = [self._read_one(load, index, slot) for index, slot in zip(positions, slots, strict=False)]
        with self._changed:
            self._with_storage -= 1
            load.end_read(monotonic(), sum(outcome.failure is None for outcome in outcomes))
        if self._stream is not None:
            outcomes = self._copy_beside(load, outcomes)
        with self._changed:
            self._outcomes.extend(outcomes)
            if self._enough is not None and len(self._outcomes) >= self._enough:
                self._enough = None
                self._changed.notify_all()

    def _read_one(self, load: Load, position: int, slot: int) -> _Outcome:
        failure: Failure | None = Failure.INTERNAL
        if load.useless(position):
            return _Outcome(load, position, slot, Failure.SKIPPED)
        try:
            self._read(load.request_id, load.blocks[position].key, self._slots.view(slot))
            failure = None
        except BlockError as error:
            failure = error.failure
            load.message = str(error)
        except Exception:
            _logger.exception("KV block not loaded for request %s", load.request_id)
        self._heard = monotonic()
        return _Outcome(load, position, slot, failure)

    def _begin_read(self, load: Load) -> None:
        now = monotonic()
        load.begin_read(now)
        if self._with_storage == 0:
            self._heard = now
        self._with_storage += 1

    def _copy_beside(self, load: Load, outcomes: Sequence[_Outcome]) -> list[_Outcome]:
        """Copy what was verified, unless the load is over: the engine's thread ends it under the same lock, and has
        what it does next with these blocks wait for the copies so far."""
        assert self._stream is not None
        moves = [_move(outcome) for outcome in outcomes if outcome.failure is None]
        with self._copy_lock:
            if load.over or not moves:
                return list(outcomes)
            try:
                fence = self._stream.copy(moves)
            except Exception:
                _logger.exception("verified KV blocks could not be copied into the KV cache")
                return [outcome._replace(failure=outcome.failure or Failure.INTERNAL) for outcome in outcomes]
        with self._changed:
            self._copying.append((fence, [move.slot for move in moves]))
        return [
            outcome._replace(slot=None, copied=True) if outcome.failure is None else outcome for outcome in outcomes
        ]

    # The engine's thread.

    def _silent(self, load: Load, now: float) -> bool:
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
            if outcome.copied:
                if not load.over:
                    self._arrived([outcome])
                continue
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

    def _copy(self, verified: Sequence[_Outcome], copy: Copier) -> None:
        if not verified:
            return
        moves = [_move(outcome) for outcome in verified]
        try:
            fence = copy(moves)
        except Exception:
            _logger.exception("verified KV blocks could not be copied into the KV cache")
            self._slots.give_back(move.slot for move in moves)
            for outcome in verified:
                outcome.load.pending.discard(outcome.position)
                outcome.load.fail(outcome.position, Failure.INTERNAL)
            return
        with self._changed:
            self._copying.append((fence, [move.slot for move in moves]))
        self._arrived(verified)

    def _arrived(self, outcomes: Sequence[_Outcome]) -> None:
        for outcome in outcomes:
            outcome.load.pending.discard(outcome.position)
        self._speed.add(len(outcomes))
        self._counters.add(BYTES, len(outcomes) * self._slot_bytes, "read")

    def _recycle(self) -> None:
        """Slots of copies that are over are free again. Copies end in their order, so only the first is looked at: to
        ask a device takes a moment, and each thread asks."""
        while self._copying:
            with self._changed:
                if not self._copying or not self._copying[0][0].done():
                    return
                _, slots = self._copying.popleft()
            self._slots.give_back(slots)

    def _finish(self) -> list[Loaded]:
        loaded: list[Loaded] = []
        going_on: list[Load] = []
        with self._copy_lock, self._changed:
            now = monotonic()
            for load in self._loads:
                hung = not load.complete() and self._silent(load, now)
                if not (load.complete() or hung or load.overdue(now)):
                    going_on.append(load)
                    continue
                load.end()
                loaded.append(self._result(load, now, hung))
            if loaded and self._stream is not None:
                self._stream.end()
        if loaded:
            self._speed.end(now)
        self._loads = going_on
        return loaded

    def _result(self, load: Load, now: float, hung: bool) -> Loaded:
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
        return load.result(hung)


def _move(outcome: _Outcome) -> Move:
    assert outcome.slot is not None
    return Move(outcome.slot, outcome.load.blocks[outcome.position].block_id)
