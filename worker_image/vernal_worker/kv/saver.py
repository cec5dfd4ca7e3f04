"""Saving: the engine's thread copies blocks into slots; threads write them to storage when it suits storage.

Behind a block that is not saved no other of its prompt is: nobody could use it, and lookups go by it
(`vernal_worker.kv.lookup`).
"""

import logging
import threading
from collections.abc import Callable, Sequence
from time import monotonic

from vernal_worker.kv import LOGGER
from vernal_worker.kv.blockstore import Saved
from vernal_worker.kv.counters import BYTES, PAUSES, SAVES, Counters
from vernal_worker.kv.keys import TAG_BYTES
from vernal_worker.kv.loader import Copier
from vernal_worker.kv.loads import Block, Move
from vernal_worker.kv.sizelimit import SizeLimit
from vernal_worker.kv.slots import Fence, Slots
from vernal_worker.kv.workers import Workers

_logger = logging.getLogger(LOGGER)
_HOLE_SECONDS = 60.0  # by then the prompt is computed, and another worker may have saved the block
_MOST_HOLES = 10_000
_NOT_SAVED = frozenset({Saved.DROPPED, Saved.FULL, Saved.FAILED})

Writer = Callable[[bytes, memoryview], Saved]
"""(key, payload): what `BlockStore.write` does."""


class Saver:
    """`save` belongs to one thread, the engine's; the others to any.

    Args:
        pause: after storage was full or failed, nothing is saved for so many seconds: nobody gains by trying.
    """

    def __init__(
        self, write: Writer, slots: Slots, workers: Workers, counters: Counters, limit: SizeLimit, pause: float
    ) -> None:
        self._write = write
        self._slots = slots
        self._workers = workers
        self._counters = counters
        self._limit = limit
        self._pause_seconds = pause
        self._lock = threading.Lock()
        self._under_way: set[bytes] = set()
        self._holes: dict[bytes, float] = {}  # tags of keys that were not saved, and until when that counts
        self._paused_until = 0.0

    def save(self, blocks: Sequence[Block], copy: Copier, patience: float = 0.0) -> None:
        """Copy `blocks` into slots and have them written. Returns when they are copied, not when they are written.

        Args:
            copy: enqueues copies in the order of the engine's own work.
            patience: seconds to wait, at most, for slots. What then has none is not saved: a later miss, no error.
        """
        end = monotonic() + patience
        todo = [block for block in blocks if self._begin(block.key) and self._follows(block.key)]
        while todo and monotonic() >= self._paused_until:
            moves, batch = self._fill(todo, end)
            if not moves:
                break
            fence = copy(moves)
            for move, block in zip(moves, batch, strict=True):
                if not self._workers.submit(
                    lambda move=move, block=block, fence=fence: self._write_one(move.slot, block.key, fence)  # type: ignore[misc]
                ):
                    fence.wait()  # the device may be writing to the slot
                    self._end(move.slot, block.key, Saved.DROPPED)
            todo = todo[len(batch) :]
        for block in todo:
            self._count(block.key, Saved.DROPPED)

    def flush(self, timeout: float) -> bool:
        """Wait until everything is written, `timeout` seconds at most; returns whether it is."""
        return self._workers.drain(timeout)

    def _begin(self, key: bytes) -> bool:
        with self._lock:
            if key in self._under_way:
                return False
            self._under_way.add(key)
            return True

    def _follows(self, key: bytes) -> bool:
        """Whether the block before it was saved, as far as is known here; else the block is left out."""
        with self._lock:
            follows = self._holes.get(key[-TAG_BYTES:], 0.0) <= monotonic()
            self._holes.pop(key[:TAG_BYTES], None)
        if not follows:
            self._count(key, Saved.DROPPED)
        return follows

    def _fill(self, todo: Sequence[Block], end: float) -> tuple[list[Move], list[Block]]:
        """As many free slots as there are; waits for the first only, so that what is filled gets on its way."""
        moves: list[Move] = []
        for block in todo:
            slot = self._slots.take(0.0 if moves else end - monotonic())
            if slot is None:
                break
            moves.append(Move(slot, block.block_id))
        return moves, list(todo[: len(moves)])

    def _write_one(self, slot: int, key: bytes, fence: Fence) -> None:
        outcome = Saved.FAILED
        try:
            fence.wait()
            with self._counters.timed("save"):
                outcome = self._write(key, self._slots.view(slot))
        except OSError as error:
            _logger.warning("KV blocks are not saved for %.0f s: %s", self._pause_seconds, error)
        finally:
            if outcome is Saved.WRITTEN:
                size = len(self._slots.view(slot))
                self._counters.add(BYTES, size, "written")
                self._limit.added(size)
            self._end(slot, key, outcome)
            if outcome in (Saved.FULL, Saved.FAILED):
                self._pause(outcome)

    def _end(self, slot: int, key: bytes, outcome: Saved) -> None:
        self._slots.give_back([slot])
        self._count(key, outcome)

    def _count(self, key: bytes, outcome: Saved) -> None:
        with self._lock:
            self._under_way.discard(key)
            if outcome in _NOT_SAVED:
                if len(self._holes) >= _MOST_HOLES:
                    self._holes.clear()
                self._holes[key[:TAG_BYTES]] = monotonic() + _HOLE_SECONDS
        self._counters.add(SAVES, 1, outcome)

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
