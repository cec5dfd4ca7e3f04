"""Loads end in time, with what was verified in place and all else reported; late reads change nothing."""

import threading
from collections.abc import Sequence

import pytest
from blake3 import blake3
from patience import GUARD_SECONDS, until
from vernal_worker.kv.blockfile import BlockError, Failure
from vernal_worker.kv.counters import Counters
from vernal_worker.kv.crew import threads
from vernal_worker.kv.loader import Loader
from vernal_worker.kv.loads import Block, Loaded, Move
from vernal_worker.kv.serving import Reader, Reads
from vernal_worker.kv.slots import Done, Fence, Slots

BLOCKS = [Block(bytes([n]) * 32, 10 + n) for n in range(8)]


class Storage:
    """Gives each block its key as content; blocks in `hang` only once `release` is set, those in `fail` never."""

    def __init__(self) -> None:
        self.hang: set[bytes] = set()
        self.fail: dict[bytes, Failure] = {}
        self.release = threading.Event()
        self.reads: list[bytes] = []

    def read(self, request_id: str, key: bytes, into: memoryview, verify: bool) -> bytes:
        self.reads.append(key)
        if key in self.hang:
            self.release.wait(GUARD_SECONDS)
        if key in self.fail:
            raise BlockError(self.fail[key], "of the test")
        into[:] = key
        return blake3(key).digest()


class Cache:
    """The KV cache; `fence` is what each copy hands out."""

    def __init__(self, slots: Slots) -> None:
        self.blocks: dict[int, bytes] = {}
        self.slots = slots
        self.fence: Fence = Done()
        self.batches: list[int] = []

    def copy(self, moves: Sequence[Move]) -> Fence:
        self.batches.append(len(moves))
        for move in moves:
            self.blocks[move.block_id] = bytes(self.slots.view(move.slot))
        return self.fence


class Rig:
    def __init__(self, slots: int = 4, threads: int = 4) -> None:
        self.slots = Slots(memoryview(bytearray(slots * 32)), 32)
        self.storage = Storage()
        self.cache = Cache(self.slots)
        self.counters = Counters()
        self.threads = threads
        self.doubted: dict[bytes, Failure] = {}
        self.read_by(self.storage.read)

    def read_by(self, read: Reader) -> None:
        crew = threads("test", self.threads, self.slots.view, Reads(read))
        self.loader = Loader(crew, self.slots, self.counters, doubt=self.doubted.__setitem__)

    def read(self) -> int:
        """How many blocks wait for the engine's thread to copy them."""
        with self.loader._changed:
            return sum(some.length for some in self.loader._verified)

    def load(self, blocks: Sequence[Block] = BLOCKS, timeout: float = GUARD_SECONDS) -> dict[int, Failure]:
        self.loader.start("r", blocks, timeout)
        (loaded,) = self.loader.poll(self.cache.copy, GUARD_SECONDS)
        assert loaded.request_id == "r"
        return loaded.failures

    def assert_nothing_is_held(self) -> None:
        """Nor by jobs whose load was given up: their slots come back with their answers."""
        self.storage.release.set()

        def all_are_free() -> bool:
            self.loader.poll(self.cache.copy)
            return self.slots.free == self.slots.count

        until("every slot to be free again", all_are_free)
        assert not self.loader._readings
        self.loader.stop()


def test_all_blocks_arrive_through_few_slots() -> None:
    rig = Rig(slots=2)
    assert rig.load() == {}
    assert rig.cache.blocks == {block.block_id: block.key for block in BLOCKS}
    rig.assert_nothing_is_held()


def test_a_failed_block_and_all_behind_it_are_reported() -> None:
    rig = Rig(threads=1)
    rig.storage.fail[BLOCKS[3].key] = Failure.CORRUPT
    failures = rig.load()
    assert failures.pop(BLOCKS[3].block_id) is Failure.CORRUPT
    assert failures == {block.block_id: Failure.SKIPPED for block in BLOCKS[4:]}
    assert set(rig.cache.blocks) == {block.block_id for block in BLOCKS[:3]}
    rig.assert_nothing_is_held()


def test_a_failure_does_not_wait_for_slow_blocks_behind_it() -> None:
    rig = Rig(slots=8, threads=8)
    rig.storage.fail[BLOCKS[0].key] = Failure.MISSING
    rig.storage.hang = {block.key for block in BLOCKS[1:]}
    failures = rig.load()
    assert len(failures) == len(BLOCKS) and Failure.SLOW not in failures.values()
    rig.assert_nothing_is_held()


def test_what_comes_after_the_deadline_is_not_copied(monkeypatch: pytest.MonkeyPatch) -> None:
    rig = Rig(slots=8, threads=8)
    rig.storage.hang = {BLOCKS[2].key, BLOCKS[5].key}
    late = threading.Event()

    def clock() -> float:  # the deadline comes when all others are there, and these two are waited for
        if len(rig.cache.blocks) == len(BLOCKS) - 2 and rig.loader._with_storage == 2:
            late.set()
        return 3 * GUARD_SECONDS if late.is_set() else 0.0

    monkeypatch.setattr("vernal_worker.kv.loader.monotonic", clock)
    failures = rig.load()
    assert {i: f for i, f in failures.items() if f is Failure.SLOW} == {
        BLOCKS[2].block_id: Failure.SLOW,
        BLOCKS[5].block_id: Failure.SLOW,
    }
    rig.cache.blocks.clear()
    rig.assert_nothing_is_held()
    assert rig.cache.blocks == {}, "by then the block may belong to another request"


def test_storage_that_hangs_for_good_costs_the_deadline_and_no_more() -> None:
    rig = Rig()
    rig.storage.hang = {block.key for block in BLOCKS}
    assert set(rig.load(timeout=0.2).values()) == {Failure.SLOW}
    rig.assert_nothing_is_held()


def test_loads_of_several_requests_end_each_on_its_own() -> None:
    rig = Rig(slots=8, threads=8)
    rig.storage.hang = {BLOCKS[0].key}
    rig.loader.start("slow", BLOCKS[:1], GUARD_SECONDS)
    rig.loader.start("fast", BLOCKS[1:3], GUARD_SECONDS)
    ended = [loaded.request_id for loaded in rig.loader.poll(rig.cache.copy, GUARD_SECONDS)]
    assert ended == ["fast"]
    rig.storage.release.set()
    assert [loaded.request_id for loaded in rig.loader.poll(rig.cache.copy, GUARD_SECONDS)] == ["slow"]
    rig.assert_nothing_is_held()


class ManualFence:
    def __init__(self) -> None:
        self.over = False

    def done(self) -> bool:
        return self.over

    def wait(self) -> None:
        raise AssertionError("the engine's thread must not wait for the device")


def test_a_slot_is_not_used_again_before_its_copy_is_over() -> None:
    rig = Rig(slots=2)
    fence = ManualFence()
    rig.cache.fence = fence
    rig.loader.start("r", BLOCKS[:3], GUARD_SECONDS)

    def both_slots_are_used() -> bool:
        assert rig.loader.poll(rig.cache.copy) == []
        return len(rig.cache.blocks) == 2

    until("two blocks", both_slots_are_used)
    assert rig.loader.poll(rig.cache.copy, 0.2) == [] and len(rig.cache.blocks) == 2
    fence.over = True
    (loaded,) = rig.loader.poll(rig.cache.copy, GUARD_SECONDS)
    assert loaded.failures == {}


def test_a_slot_is_used_again_when_its_copy_is_over_whatever_the_engine_does() -> None:
    rig = Rig(slots=2)
    rig.cache.fence = fence = ManualFence()
    rig.loader.start("r", BLOCKS[:3], GUARD_SECONDS)

    def both_slots_are_used() -> bool:
        assert rig.loader.poll(rig.cache.copy) == []
        return len(rig.cache.blocks) == 2

    until("two blocks", both_slots_are_used)
    assert len(rig.storage.reads) == 2
    fence.over = True
    until("the third, while nobody polls", lambda: len(rig.storage.reads) == 3)
    (loaded,) = rig.loader.poll(rig.cache.copy, GUARD_SECONDS)
    assert loaded.failures == {}


def test_a_burst_of_long_prompts_is_loaded_whatever_waits_for_what(monkeypatch: pytest.MonkeyPatch) -> None:
    """Eight prompts of 12k tokens come at once, and there are slots for a sixth of one. Storage is as quick as slots
    are free. The device, whose steps take 250 ms, copies what it is given before a step at once, what it is given
    behind it when that is over. All that takes 12 s, none of them storage's."""
    now = 0.0
    monkeypatch.setattr("vernal_worker.kv.loader.monotonic", lambda: now)
    rig = Rig(slots=128, threads=8)
    prompts = [[Block(n.to_bytes(4, "big") * 8, n) for n in range(start, start + 750)] for start in range(0, 6000, 750)]
    for number, blocks in enumerate(prompts):
        rig.loader.start(f"r{number}", blocks, 5.0)
    ended: list[Loaded] = []
    while len(ended) < len(prompts):
        rig.cache.fence = before = ManualFence()
        ended += rig.loader.poll(rig.cache.copy)
        before.over = True
        rig.cache.fence = behind = ManualFence()
        copied = len(rig.cache.blocks)
        ended += rig.loader.poll(rig.cache.copy)
        assert all(loaded.failures == {} for loaded in ended)
        held, left = len(rig.cache.blocks) - copied, 6000 - len(rig.cache.blocks)
        free = min(rig.slots.count - held, left)
        until("storage to fill the free slots", lambda free=free: rig.read() == free)  # type: ignore[misc]
        now += 0.25
        behind.over = True
    assert len(rig.cache.blocks) == 6000
    assert now > 2 * 5.0


def test_a_load_that_storage_is_slow_with_ends_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Storage answers others meanwhile: it does not hang."""
    now = 0.0
    monkeypatch.setattr("vernal_worker.kv.loader.monotonic", lambda: now)
    rig = Rig(slots=8, threads=8)
    rig.storage.hang = {BLOCKS[1].key}
    rig.loader.start("slow", BLOCKS[:2], 5.0)
    until("the first block", lambda: rig.loader.poll(rig.cache.copy) or rig.cache.blocks)
    until("storage to hang", lambda: BLOCKS[1].key in rig.storage.reads)
    now = 4.0
    rig.loader.start("other", BLOCKS[2:3], 5.0)
    assert [loaded.request_id for loaded in rig.loader.poll(rig.cache.copy, GUARD_SECONDS)] == ["other"]
    now = 5.0
    (loaded,) = rig.loader.poll(rig.cache.copy)
    assert (loaded.request_id, loaded.failures, loaded.hung) == ("slow", {BLOCKS[1].block_id: Failure.SLOW}, False)
    rig.assert_nothing_is_held()


def test_each_part_of_a_load_has_its_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """A long prompt takes longer than the time-out, and arrives."""
    now = 0.0
    monkeypatch.setattr("vernal_worker.kv.loader.monotonic", lambda: now)
    monkeypatch.setattr("vernal_worker.kv.serving._PATIENCE_SECONDS", -1.0)  # a job that takes long, by a real clock
    rig = Rig(slots=8, threads=1)
    gates = {block.key: threading.Event() for block in BLOCKS}

    def read(request_id: str, key: bytes, into: memoryview, verify: bool) -> bytes:
        rig.storage.reads.append(key)
        assert gates[key].wait(GUARD_SECONDS)
        return key

    rig.read_by(read)
    rig.loader.start("r", BLOCKS, 5.0)
    for block in BLOCKS:
        until("the next read", lambda block=block: block.key in rig.storage.reads)  # type: ignore[misc]
        now += 4.0
        assert rig.loader.poll(rig.cache.copy) == []
        gates[block.key].set()
        until("its end to be seen", lambda now=now: rig.loader._heard == now)  # type: ignore[misc]
    (loaded,) = rig.loader.poll(rig.cache.copy, GUARD_SECONDS)
    assert loaded.failures == {}


def test_loads_that_wait_for_threads_that_hang_end_too(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr("vernal_worker.kv.loader.monotonic", lambda: now)
    rig = Rig(slots=8, threads=2)
    rig.storage.hang = {block.key for block in BLOCKS}
    rig.loader.start("first", BLOCKS[:2], 5.0)
    until("both threads to hang", lambda: len(rig.storage.reads) == 2)
    rig.loader.start("second", BLOCKS[2:4], 5.0)
    now = 4.9
    assert rig.loader.poll(rig.cache.copy) == []
    now = 5.0
    ended = rig.loader.poll(rig.cache.copy)
    assert [(loaded.request_id, loaded.usable, loaded.hung) for loaded in ended] == [
        ("first", 0, True),
        ("second", 0, True),
    ]
    now = 1000.0
    rig.loader.start("third", BLOCKS[4:6], 5.0)
    assert rig.loader.poll(rig.cache.copy) == [], "it has its time like others"
    now = 1005.0
    assert [loaded.hung for loaded in rig.loader.poll(rig.cache.copy)] == [True]
    rig.assert_nothing_is_held()


def test_how_fast_loads_are_is_told_where_enough_were_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr("vernal_worker.kv.loader.monotonic", lambda: now)
    rig = Rig(slots=128)
    many = [Block(bytes([n]) * 32, n) for n in range(100)]

    def load(blocks: list[Block], seconds: float) -> float | None:
        nonlocal now
        rig.loader.start("r", blocks, GUARD_SECONDS)
        until("all to be read", lambda: rig.read() == len(blocks))
        now += seconds
        assert len(rig.loader.poll(rig.cache.copy)) == 1
        return rig.loader.take_rate()

    assert load(many, 0.5) == 200.0
    assert load(many[:10], 0.5) is None, "too few and too quick to tell"
    assert load(many[:10], 2.0) == 5.0
    assert rig.loader.take_rate() is None


def test_a_copy_that_fails_is_a_failure_of_its_blocks() -> None:
    rig = Rig()

    def copy(moves: Sequence[Move]) -> Fence:
        raise RuntimeError("of the test")

    rig.loader.start("r", BLOCKS[:2], GUARD_SECONDS)
    (loaded,) = rig.loader.poll(copy, GUARD_SECONDS)
    assert loaded.failures[BLOCKS[0].block_id] in (Failure.INTERNAL, Failure.SKIPPED)
    assert len(loaded.failures) == 2
    rig.assert_nothing_is_held()


@pytest.mark.parametrize("failure", [BlockError(Failure.UNREADABLE, "x"), ValueError("a bug"), MemoryError()])
def test_whatever_a_read_raises_the_load_ends(failure: Exception) -> None:
    rig = Rig()

    def read(request_id: str, key: bytes, into: memoryview, verify: bool) -> bytes:
        raise failure

    rig.read_by(read)
    assert len(rig.load(BLOCKS[:2])) == 2
    counted = rig.counters.take()
    assert sum(value for key, value in counted.items() if key.startswith("load_failures")) == 2
    rig.assert_nothing_is_held()
