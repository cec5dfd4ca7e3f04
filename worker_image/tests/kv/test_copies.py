"""Loads whose copies are enqueued by the thread that loads, on a stream of their own."""

import threading
from collections.abc import Sequence
from pathlib import Path

import pytest
from blake3 import blake3
from kv_engine_model import BLOCK_TOKENS, Engine, LateCopies, fill
from patience import GUARD_SECONDS, until
from vernal_worker.kv import crew
from vernal_worker.kv.blockfile import BlockError, Failure
from vernal_worker.kv.counters import Counters
from vernal_worker.kv.cuda_copies import adjacent, joined
from vernal_worker.kv.faults import Fault, Faults
from vernal_worker.kv.loader import Loader
from vernal_worker.kv.loads import Block, Loaded, Move, Run
from vernal_worker.kv.serving import Reads
from vernal_worker.kv.slots import Done, Fence, Slots

BLOCKS = [Block(bytes([n]) * 32, 10 + n) for n in range(8)]


class Rig:
    """Storage gives each block its key as content, those in `hang` only once `release` is set, those in `wrong` with
    another byte as often as that says, unless it is to verify them: then they fail."""

    def __init__(self, slots: int = 2, threads: int = 2, *, hashes: bool = False) -> None:
        self.cache: dict[int, bytes] = {}
        self.hang: set[bytes] = set()
        self.release = threading.Event()
        self.slots = Slots(memoryview(bytearray(slots * 32)), 32)
        self.wrong: dict[bytes, int] = {}
        self.reads: list[tuple[bytes, bool]] = []
        self.stream = LateCopies(self._copy, self.slots.view if hashes else None)
        self.crew = crew.threads("test", threads, self.slots.view, Reads(self._read))
        self.loader = Loader(self.crew, self.slots, Counters(), self.stream)

    def _read(self, request_id: str, key: bytes, into: memoryview, verify: bool) -> bytes:
        self.reads.append((key, verify))
        if key in self.hang:
            self.release.wait(GUARD_SECONDS)
        into[:] = key
        if self.wrong.get(key):
            self.wrong[key] -= 1
            if verify:
                raise BlockError(Failure.CORRUPT, "of the test")
            into[7] ^= 1
        return blake3(key).digest()

    def _copy(self, moves: Sequence[Move]) -> Fence:
        for move in moves:
            self.cache[move.block_id] = bytes(self.slots.view(move.slot))
        return Done()

    def load(self) -> Loaded:
        self.loader.start("r", BLOCKS, GUARD_SECONDS)
        (loaded,) = self.loader.poll(self.never, GUARD_SECONDS)
        return loaded

    def never(self, moves: Sequence[Move]) -> Fence:
        raise AssertionError("the engine's thread does not copy where there is a stream")


def test_blocks_arrive_whatever_the_engine_does() -> None:
    """Its thread is in a step all the time, and there are fewer slots than blocks."""
    rig = Rig()
    rig.loader.start("r", BLOCKS, GUARD_SECONDS)
    until("the last two, which are nobody's to ask for", lambda: len(rig.cache) >= len(BLOCKS) - 2)
    (loaded,) = rig.loader.poll(rig.never, GUARD_SECONDS)
    assert loaded.failures == {}
    assert rig.cache == {block.block_id: block.key for block in BLOCKS}


def test_each_load_begins_behind_what_the_device_has_to_do() -> None:
    rig = Rig()
    for number in (1, 2):
        rig.loader.start(f"r{number}", BLOCKS, GUARD_SECONDS)
        assert rig.stream.calls == ["begin"] * number
    while rig.loader.busy:
        rig.loader.poll(rig.never, GUARD_SECONDS)


def test_a_load_does_not_wait_for_the_work_of_the_step_that_brings_it(tmp_path: Path) -> None:
    """vLLM starts it behind that: what it has to wait for is marked when the step begins, in each step."""
    prompts = [[number] * 5 * BLOCK_TOKENS for number in range(2)]
    fill(tmp_path, *prompts)
    engine = Engine(tmp_path, Faults(Fault()), beside=True)
    for prompt in prompts:
        engine.run([prompt])
    engine.close()
    assert engine.memory.stream is not None
    calls = engine.memory.stream.calls
    begins = [at for at, call in enumerate(calls) if call == "begin"]
    assert len(begins) == 2
    assert all(at == 0 or calls[at - 1] == "mark" for at in begins), "but where there was no stream when its step began"


def test_a_load_is_over_when_what_comes_next_waits_for_its_copies() -> None:
    rig = Rig(slots=8)
    rig.loader.start("r", BLOCKS, GUARD_SECONDS)
    rig.loader.poll(rig.never, GUARD_SECONDS)
    assert rig.cache == {block.block_id: block.key for block in BLOCKS}, "though nobody asked for their fences"


def test_a_read_after_the_deadline_finds_nobody_who_copies(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr("vernal_worker.kv.loader.monotonic", lambda: now)
    rig = Rig(slots=8)
    rig.hang = {BLOCKS[1].key}
    rig.loader.start("r", BLOCKS[:2], 5.0)
    until("the other block", lambda: rig.loader.poll(rig.never) or rig.loader._loads[0].pending == {1})
    now = 5.0
    (loaded,) = rig.loader.poll(rig.never)
    assert loaded.failures == {BLOCKS[1].block_id: Failure.SLOW}
    rig.release.set()
    until("the slot of the late one", lambda: rig.slots.free == 8)
    rig.loader.poll(rig.never)
    rig.stream.end()
    assert set(rig.cache) == {BLOCKS[0].block_id}, "by then the block may belong to another request"


def test_where_the_device_hashes_nobody_else_does() -> None:
    rig = Rig(hashes=True)
    loaded = rig.load()
    assert loaded.failures == {} and rig.cache == {block.block_id: block.key for block in BLOCKS}
    assert not any(verify for _, verify in rig.reads)
    rig.loader.stop()


def test_a_load_is_not_over_before_the_device_has_hashed_all_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    rig = Rig(slots=8, hashes=True)
    fence = Held()
    copy = rig.stream.copy
    monkeypatch.setattr(rig.stream, "copy", lambda runs: fence.around(copy(runs)))
    rig.loader.start("r", BLOCKS, GUARD_SECONDS)
    until("all blocks to be read", lambda: len(rig.reads) == len(BLOCKS) and not rig.loader._readings)
    assert rig.loader.poll(rig.never) == []
    fence.held.clear()
    (loaded,) = rig.loader.poll(rig.never, GUARD_SECONDS)
    assert loaded.failures == {}
    rig.loader.stop()


def test_a_block_with_another_digest_is_read_again_and_verified_there() -> None:
    """As when a bit flipped between storage and the device, and not on storage."""
    rig = Rig(hashes=True)
    rig.wrong = {BLOCKS[3].key: 1}
    loaded = rig.load()
    assert loaded.failures == {} and rig.cache == {block.block_id: block.key for block in BLOCKS}
    assert [key for key, verify in rig.reads if verify] == [BLOCKS[3].key]
    rig.loader.stop()


def test_a_block_that_is_wrong_on_storage_fails_and_with_it_what_comes_behind() -> None:
    rig = Rig(hashes=True)
    rig.wrong = {BLOCKS[3].key: 2}
    loaded = rig.load()
    assert loaded.usable == 3
    assert loaded.failures[BLOCKS[3].block_id] is Failure.CORRUPT
    assert set(loaded.failures) == {block.block_id for block in BLOCKS[3:]}
    until("every slot to be free again", lambda: rig.slots.free == 2)
    rig.loader.stop()


class Held:
    """Fences that are not passed as long as `held` is set."""

    def __init__(self) -> None:
        self.held = threading.Event()
        self.held.set()

    def around(self, fence: Fence) -> Fence:
        held = self.held

        class _Fence:
            def done(self) -> bool:
                return not held.is_set() and fence.done()

            def wait(self) -> None:
                fence.wait()

        return _Fence()


def test_a_store_that_is_released_copies_nothing_more() -> None:
    rig = Rig(slots=8)
    rig.hang = {block.key for block in BLOCKS}
    rig.loader.start("r", BLOCKS, GUARD_SECONDS)
    until("storage to hold them", lambda: rig.loader._with_storage == 2)
    rig.loader.stop()
    rig.release.set()
    rig.stream.end()
    assert rig.cache == {}


def test_a_copy_that_fails_is_a_failure_of_its_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    rig = Rig()

    def copy(runs: Sequence[Run]) -> Fence:
        raise RuntimeError("of the test")

    monkeypatch.setattr(rig.stream, "copy", copy)
    loaded = rig.load()
    assert loaded.usable == 0 and set(loaded.failures.values()) <= {Failure.INTERNAL, Failure.SKIPPED}
    until("every slot to be free again", lambda: rig.slots.free == 2)


def test_slots_that_are_next_to_one_another_are_copied_at_once() -> None:
    assert list(adjacent([2, 3, 4, 7, 9, 10])) == [
        (slice(2, 5), slice(0, 3)),
        (slice(7, 8), slice(3, 4)),
        (slice(9, 11), slice(4, 6)),
    ]
    slots = Slots(memoryview(bytearray(8)), 1)
    first, second = slots.take(5), slots.take(3)
    assert (first, second, slots.take(1)) == (range(5), range(5, 8), range(0))
    slots.give_back([1, 2, 5])
    assert slots.take(4) == range(1, 3), "as many as follow one another"
    assert (slots.take(4), slots.take(4)) == (range(5, 6), range(0))


def test_runs_that_follow_one_another_are_one_copy() -> None:
    one, other = object(), object()
    runs = [Run(one, 4, 12, 2), Run(one, 0, 8, 4), Run(other, 6, 14, 1), Run(one, 6, 20, 3)]
    assert joined(runs, 8) == [Run(one, 0, 8, 6), Run(other, 6, 14, 1), Run(one, 6, 20, 3)]
    assert joined(runs[:2], 5) == [Run(one, 0, 8, 4), Run(one, 4, 12, 2)], "staging has room for so many"
