"""Saves never hold the engine up longer than they may, and each block has an outcome."""

import threading
from collections.abc import Sequence
from pathlib import Path

import pytest
from patience import GUARD_SECONDS
from vernal_worker.kv.blockstore import Saved
from vernal_worker.kv.counters import Counters
from vernal_worker.kv.keys import block_keys
from vernal_worker.kv.loads import Block, Move
from vernal_worker.kv.saver import Saver
from vernal_worker.kv.sizelimit import SizeLimit
from vernal_worker.kv.slots import Done, Fence, Slots
from vernal_worker.kv.workers import Workers

BLOCKS = [Block(key, n) for n, key in enumerate(block_keys(range(6), 1))]
OTHERS = [Block(key, n) for n, key in enumerate(block_keys(range(100, 106), 1))]


class Rig:
    def __init__(self, root: Path, slots: int = 2, pause: float = 2 * GUARD_SECONDS) -> None:
        self.written: dict[bytes, bytes] = {}
        self.outcome = Saved.WRITTEN
        self.error: OSError | None = None
        self.go = threading.Event()
        self.go.set()
        self.slots = Slots(memoryview(bytearray(slots * 4)), 4)
        self.counters = Counters()
        limit = SizeLimit(root, None, self.counters)
        self.saver = Saver(self.write, self.slots, Workers("test", 2), self.counters, limit, pause)

    def write(self, key: bytes, payload: memoryview) -> Saved:
        self.go.wait(GUARD_SECONDS)
        if self.error:
            raise self.error
        if self.outcome is Saved.WRITTEN:
            self.written[key] = bytes(payload)
        return self.outcome

    def copy(self, moves: Sequence[Move]) -> Fence:
        for move in moves:
            self.slots.view(move.slot)[:] = bytes([move.block_id]) * 4
        return Done()

    def outcomes(self) -> dict[str, float]:
        assert self.saver.flush(GUARD_SECONDS)
        return {k.removeprefix("saves:"): v for k, v in self.counters.take().items() if k.startswith("saves:")}


def test_every_block_is_written_with_what_was_copied(tmp_path: Path) -> None:
    rig = Rig(tmp_path)
    rig.saver.save(BLOCKS, rig.copy, patience=GUARD_SECONDS)
    assert rig.outcomes() == {"written": 6}
    assert rig.written == {block.key: bytes([block.block_id]) * 4 for block in BLOCKS}


def test_without_patience_what_has_no_room_is_dropped(tmp_path: Path) -> None:
    rig = Rig(tmp_path)
    rig.go.clear()
    rig.saver.save(BLOCKS, rig.copy)
    assert rig.written == {}, "it returned while nothing is written"
    rig.go.set()
    assert rig.outcomes() == {"written": 2, "dropped": 4}
    assert set(rig.written) == {BLOCKS[0].key, BLOCKS[1].key}, "the first blocks of a prefix are worth most"
    rig.saver.save(BLOCKS[2:], rig.copy, patience=GUARD_SECONDS)
    assert rig.outcomes() == {"written": 4}, "what was dropped can be saved later"


def test_behind_a_block_that_was_dropped_nothing_of_its_prompt_is_saved(tmp_path: Path) -> None:
    """It would be of no use, and lookups conclude from it that all before it are there."""
    rig = Rig(tmp_path)
    rig.go.clear()
    rig.saver.save(BLOCKS[:4], rig.copy)
    rig.go.set()
    assert rig.outcomes() == {"written": 2, "dropped": 2}
    rig.saver.save([BLOCKS[4], OTHERS[0], BLOCKS[5]], rig.copy, patience=GUARD_SECONDS)
    assert rig.outcomes() == {"written": 1, "dropped": 2}, "the next step's"
    assert set(rig.written) == {BLOCKS[0].key, BLOCKS[1].key, OTHERS[0].key}
    rig.saver.save(BLOCKS[2:], rig.copy, patience=GUARD_SECONDS)
    assert rig.outcomes() == {"written": 4}, "of the next request"


def test_a_hole_is_forgotten_for_others_may_have_filled_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    monkeypatch.setattr("vernal_worker.kv.saver.monotonic", lambda: now)
    rig = Rig(tmp_path, pause=0.0)
    rig.outcome = Saved.FULL
    rig.saver.save(BLOCKS[:1], rig.copy)
    assert rig.outcomes() == {"full": 1}
    rig.outcome = Saved.WRITTEN
    rig.saver.save(BLOCKS[1:2], rig.copy)
    assert rig.outcomes() == {"dropped": 1}
    now += 61.0
    rig.saver.save(BLOCKS[1:2], rig.copy)
    assert rig.outcomes() == {"written": 1}


def test_the_same_block_is_not_saved_twice_at_a_time(tmp_path: Path) -> None:
    rig = Rig(tmp_path)
    rig.go.clear()
    rig.saver.save(BLOCKS[:1], rig.copy)
    rig.saver.save(BLOCKS[:1], rig.copy)
    rig.go.set()
    assert rig.outcomes() == {"written": 1}


def test_after_a_full_store_it_pauses(tmp_path: Path) -> None:
    rig = Rig(tmp_path)
    rig.outcome = Saved.FULL
    rig.saver.save(BLOCKS[:1], rig.copy)
    assert rig.outcomes() == {"full": 1}
    rig.saver.save(BLOCKS[1:2], rig.copy)
    assert rig.outcomes() == {"dropped": 1}


def test_after_the_pause_it_saves_again(tmp_path: Path) -> None:
    rig = Rig(tmp_path, pause=0.0)
    rig.error = OSError(5, "of the test")
    rig.saver.save(BLOCKS[:1], rig.copy)
    assert rig.outcomes() == {"failed": 1}
    rig.error = None
    rig.saver.save(BLOCKS[:1], rig.copy)
    assert rig.outcomes() == {"written": 1}


def test_flush_says_whether_all_is_written(tmp_path: Path) -> None:
    rig = Rig(tmp_path)
    rig.go.clear()
    rig.saver.save(BLOCKS[:1], rig.copy)
    assert not rig.saver.flush(0.1)
    rig.go.set()
    assert rig.saver.flush(GUARD_SECONDS)
    assert len(rig.written) == 1
