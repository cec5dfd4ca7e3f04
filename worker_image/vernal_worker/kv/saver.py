"""Saving: the engine's thread enqueues a copy of all blocks of a step into slots; others write them to storage
(`vernal_worker.kv.crew`) when it suits storage. One thread waits for the copies, gives out jobs and takes answers.

Behind a block that is not saved no other of its prompt is: nobody could use it, and lookups go by it
(`vernal_worker.kv.lookup`).
"""

import contextlib
import logging
import threading
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from time import monotonic
from typing import Protocol

from vernal_worker.kv import LOGGER
from vernal_worker.kv.blockstore import Saved
from vernal_worker.kv.counters import BYTES, PAUSES, SAVES, SECONDS, Counters
from vernal_worker.kv.crew import Crew, GoneError, start_thread
from vernal_worker.kv.jobs import MOST_BLOCKS, Answer, Job, joined, parts
from vernal_worker.kv.keys import TAG_BYTES
from vernal_worker.kv.loader import Copier
from vernal_worker.kv.loads import Block, Move
from vernal_worker.kv.sizelimit import SizeLimit
from vernal_worker.kv.slots import Fence, Slots

_logger = logging.getLogger(LOGGER)
_HOLE_SECONDS = 60.0  # by then the prompt is computed, and another worker may have saved the block
_MOST_HOLES = 10_000
_NOT_SAVED = frozenset({Saved.DROPPED, Saved.FULL, Saved.FAILED})
_RUN_BYTES = 8 << 20
_AHEAD = 2  # jobs for each that is done at a time
_FENCE_SECONDS = 0.002  # how often it is looked whether a copy is over, where there are answers to wait for too
_JOIN_SECONDS = 30.0


class Doubts(Protocol):
    """Blocks whose files could not be read, and are replaced: `BlockStore`."""

    def doubts(self, key: bytes) -> bool: ...

    def written(self, key: bytes) -> None: ...


@dataclass(frozen=True)
class _Piece:
    """Blocks of one copy, in the slots from `slot` on."""

    fence: Fence
    slot: int
    keys: Sequence[bytes]

    @property
    def slots(self) -> range:
        return range(self.slot, self.slot + len(self.keys))


@dataclass(eq=False)
class _Writing:
    piece: _Piece
    done: int = 0


class Saver:
    """`save` and `stop` belong to one thread, the engine's; `flush` to any.

    Args:
        pause: after storage was full or failed, nothing is saved for so many seconds: nobody gains by trying.
    """

    def __init__(
        self,
        crew: Crew,
        slots: Slots,
        counters: Counters,
        limit: SizeLimit,
        store: Doubts,
        pause: float,
    ) -> None:
        self._crew = crew
        self._slots = slots
        self._counters = counters
        self._limit = limit
        self._pause_seconds = pause
        self._store = store
        self._most = max(1, min(_RUN_BYTES // slots.slot_bytes, MOST_BLOCKS, slots.count // (_AHEAD * crew.size)))
        self._lock = threading.Condition()
        self._under_way: set[bytes] = set()
        self._holes: dict[bytes, float] = {}  # tags of keys that were not saved, and until when that counts
        self._paused_until = 0.0
        self._pieces: deque[_Piece] = deque()  # to be given out, in their order
        self._writings: dict[int, _Writing] = {}
        self._number = 0
        self._stopped = False
        self._thread: threading.Thread | None = None

    def save(self, blocks: Sequence[Block], copy: Copier, patience: float = 0.0) -> None:
        """Copy `blocks` into slots and have them written. Returns when that is enqueued, not when they are written.

        Args:
            copy: enqueues copies in the order of the engine's own work.
            patience: seconds to wait, at most, for slots. What then has none is not saved: a later miss, no error.
        """
        end = monotonic() + patience
        todo = self._begin(blocks)
        while todo and monotonic() >= self._paused_until:
            runs = self._room(len(todo), end)
            slots = [slot for run in runs for slot in run]
            if not slots:
                break
            batch, todo = todo[: len(slots)], todo[len(slots) :]
            try:
                fence = copy([Move(slot, block.block_id) for slot, block in zip(slots, batch, strict=True)])
            except Exception:
                self._slots.give_back(slots)
                self._count([block.key for block in [*batch, *todo]], Saved.DROPPED)
                raise
            self._hand_over(fence, runs, [block.key for block in batch])
        self._count([block.key for block in todo], Saved.DROPPED)

    def flush(self, timeout: float) -> bool:
        """Wait until everything is written, `timeout` seconds at most; returns whether it is."""
        with self._lock:
            return self._lock.wait_for(lambda: not self._pieces and not self._writings, max(0.0, timeout))

    def stop(self) -> None:
        """Nobody is left who writes. What was not written is not."""
        self._stopped = True
        if self._thread is None:
            self._crew.close()
        else:
            self._crew.wake()
            self._thread.join(_JOIN_SECONDS)

    # The engine's thread.

    def _begin(self, blocks: Sequence[Block]) -> list[Block]:
        """Those that are not being saved already, and that follow a block which was saved, as far as is known here."""
        todo: list[Block] = []
        dropped: list[bytes] = []
        now = monotonic()
        with self._lock:
            for block in blocks:
                key = block.key
                if key in self._under_way:
                    continue
                self._under_way.add(key)
                follows = not self._holes or self._holes.get(key[-TAG_BYTES:], 0.0) <= now
                if follows:
                    self._holes.pop(key[:TAG_BYTES], None)
                    todo.append(block)
                else:
                    self._holes[key[:TAG_BYTES]] = now + _HOLE_SECONDS
                    dropped.append(key)
        self._count(dropped, Saved.DROPPED)
        return todo

    def _room(self, count: int, end: float) -> list[range]:
        """As many free slots as there are; waits for the first only, so that what is filled gets on its way."""
        runs: list[range] = []
        while count > 0 and (run := self._slots.take(count, 0.0 if runs else end - monotonic())):
            runs.append(run)
            count -= len(run)
        return runs

    def _hand_over(self, fence: Fence, runs: Sequence[range], keys: Sequence[bytes]) -> None:
        pieces: list[_Piece] = []
        for run in runs:
            mine, keys = keys[: len(run)], keys[len(run) :]
            pieces += [_Piece(fence, run[part.start], mine[part]) for part in parts(len(run), self._most)]
        if self._run_thread():
            with self._lock:
                self._pieces.extend(pieces)
            self._crew.wake()
            return
        fence.wait()  # the device may be writing to the slots
        for piece in pieces:
            self._dropped(piece)

    # The thread that saves.

    def _run_thread(self) -> bool:
        """Returns whether there is one."""
        if self._thread is None:
            self._thread = start_thread("vernal-kv-save", self._run)
        return self._thread is not None

    def _run(self) -> None:
        try:
            while not self._stopped:
                try:
                    self._take(self._receive())
                    self._give_out()
                except Exception:
                    _logger.exception("KV blocks are not saved")
                    self._drop_pieces()
        finally:
            self._crew.close()

    def _receive(self) -> list[Answer]:
        try:
            return self._crew.receive(self._patience())
        except GoneError:
            self._gone()
            return []

    def _patience(self) -> float | None:
        with self._lock:
            if not self._pieces or len(self._writings) >= _AHEAD * self._crew.size:
                return None
            fence = self._pieces[0].fence
            answers = bool(self._writings)
        if answers:
            return _FENCE_SECONDS
        fence.wait()
        return 0.0

    def _give_out(self) -> None:
        while len(self._writings) < _AHEAD * self._crew.size:
            with self._lock:
                piece = self._pieces[0] if self._pieces else None
            if piece is None or not piece.fence.done():
                return
            if not self._crew.ready():
                self._drop_pieces()
                return
            self._number += 1
            replace = tuple(at for at, key in enumerate(piece.keys) if self._store.doubts(key))
            with self._lock:
                if not self._crew.send(Job(self._number, "", piece.slot, joined(piece.keys), replace)):
                    return
                self._writings[self._number] = _Writing(self._pieces.popleft())

    def _take(self, answers: Sequence[Answer]) -> None:
        for answer in answers:
            if (writing := self._writings.get(answer.number)) is not None:
                self._answered(writing, answer)

    def _answered(self, writing: _Writing, answer: Answer) -> None:
        keys = writing.piece.keys[writing.done : writing.done + len(answer.outcomes)]
        slot = writing.piece.slot + writing.done
        self._slots.give_back(range(slot, slot + len(keys)))
        self._counters.add(SECONDS, answer.seconds, "save")
        if answer.message:
            _logger.log(
                logging.ERROR if answer.bug else logging.WARNING,
                "KV blocks are not saved for %.0f s: %s",
                self._pause_seconds,
                answer.message,
            )
        outcomes = [Saved(outcome) for outcome in answer.outcomes]
        for outcome in dict.fromkeys(outcomes):
            some = [key for key, became in zip(keys, outcomes, strict=True) if became is outcome]
            if outcome is Saved.WRITTEN:
                self._written(some)
            self._count(some, outcome)
            if outcome in (Saved.FULL, Saved.FAILED):
                self._pause(outcome)
        with self._lock:
            writing.done += len(keys)
            if writing.done >= len(writing.piece.keys):
                del self._writings[answer.number]
                self._lock.notify_all()

    def _written(self, keys: Sequence[bytes]) -> None:
        for key in keys:
            self._store.written(key)
        size = len(keys) * self._slots.slot_bytes
        self._counters.add(BYTES, size, "written")
        self._limit.added(size)

    def _gone(self) -> None:
        """Nobody writes any more, so that no slot is in use, and what was not answered never will be."""
        _logger.error(
            "a process that writes KV blocks has ended, as when memory is short: what it had is not saved, and the "
            "next save starts another"
        )
        for number, writing in list(self._writings.items()):
            left = _Piece(writing.piece.fence, writing.piece.slot + writing.done, writing.piece.keys[writing.done :])
            self._dropped(left)
            with self._lock:
                del self._writings[number]
                self._lock.notify_all()

    def _drop_pieces(self) -> None:
        """Nobody can be had who writes."""
        while self._pieces:
            piece = self._pieces[0]
            with contextlib.suppress(Exception):  # the device's; nothing can be done about it here
                piece.fence.wait()  # the device may be writing to the slots
            self._dropped(piece)
            with self._lock:
                self._pieces.popleft()
                self._lock.notify_all()

    def _dropped(self, piece: _Piece) -> None:
        self._slots.give_back(piece.slots)
        self._count(piece.keys, Saved.DROPPED)

    def _count(self, keys: Sequence[bytes], outcome: Saved) -> None:
        if not keys:
            return
        with self._lock:
            self._under_way.difference_update(keys)
            if outcome in _NOT_SAVED:
                if len(self._holes) >= _MOST_HOLES:
                    self._holes.clear()
                until = monotonic() + _HOLE_SECONDS
                self._holes.update((key[:TAG_BYTES], until) for key in keys)
        self._counters.add(SAVES, len(keys), outcome)

    def _pause(self, outcome: Saved) -> None:
        if outcome is Saved.FULL:
            self._limit.full()
        with self._lock:
            first = monotonic() >= self._paused_until
            self._paused_until = monotonic() + self._pause_seconds
        if first:
            self._counters.add(PAUSES, 1, f"save_{outcome}")
            if outcome is Saved.FULL:
                _logger.warning(
                    "the KV store is full: nothing is saved for %.0f s while old blocks go", self._pause_seconds
                )
