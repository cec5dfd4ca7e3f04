"""Saves never hold the engine up longer than they may, and each block has an outcome."""

import threading
from collections.abc import Sequence
from pathlib import Path

import pytest
from patience import GUARD_SECONDS, until
from vernal_worker.kv.blockfile import Failure
from vernal_worker.kv.blockstore import BlockStore, Layout, Saved
from vernal_worker.kv.counters import Counters
from vernal_worker.kv.crew import threads
from vernal_worker.kv.keys import block_keys
from vernal_worker.kv.loads import Block, Move
from vernal_worker.kv.saver import Saver
from vernal_worker.kv.serving import Writes
from vernal_worker.kv.sizelimit import SizeLimit
from vernal_worker.kv.slots import Done, Fence, Slots

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
        self.store = BlockStore(root, Layout(b"l" * 32, 1, 4))
        self.replaced: list[bytes] = []
        crew = threads("test", 2, self.slots.view, Writes(self.write))
        self.saver = Saver(crew, self.slots, self.counters, limit, self.store, pause)

    def write(self, key: bytes, payload: memoryview, replace: bool) -> Saved:
        self.go.wait(GUARD_SECONDS)
        if replace:
            self.replaced.append(key)
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


def test_a_block_that_could_not_be_read_is_replaced_once(tmp_path: Path) -> None:
    """Readers are in another process than writers: what they met is known here."""
    rig = Rig(tmp_path, slots=4)
    rig.store.doubt(BLOCKS[1].key, Failure.UNREADABLE)
    for _ in range(2):
        rig.saver.save(BLOCKS[:3], rig.copy, patience=GUARD_SECONDS)
        assert rig.outcomes() == {"written": 3}
        assert rig.replaced == [BLOCKS[1].key]


def test_all_blocks_of_a_step_are_one_copy(tmp_path: Path) -> None:
    rig = Rig(tmp_path, slots=8)
    copies: list[int] = []

    def copy(moves: Sequence[Move]) -> Fence:
        copies.append(len(moves))
        return rig.copy(moves)

    rig.saver.save(BLOCKS, copy)
    assert rig.outcomes() == {"written": 6}
    assert copies == [6]


class LateFence:
    """Of a device that does the copy when `over` is set."""

    def __init__(self) -> None:
        self.over = threading.Event()

    def done(self) -> bool:
        return self.over.is_set()

    def wait(self) -> None:
        assert self.over.wait(GUARD_SECONDS)


def test_nothing_is_written_before_the_device_has_copied_it(tmp_path: Path) -> None:
    rig = Rig(tmp_path, slots=8)
    rig.saver.save(OTHERS[:1], rig.copy)
    fence = LateFence()

    def copy(moves: Sequence[Move]) -> Fence:
        rig.copy(moves)
        return fence

    rig.saver.save(BLOCKS[:2], copy)
    until("the one that was copied", lambda: OTHERS[0].key in rig.written)
    assert not rig.saver.flush(0.1) and len(rig.written) == 1
    fence.over.set()
    assert rig.outcomes() == {"written": 3}
