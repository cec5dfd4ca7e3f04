"""A process that may start no more threads serves on, without the store; what it refused leaves nothing behind."""

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest
from kv_engine_model import BLOCK_BYTES, BLOCK_TOKENS, Engine, Memory, fill, true_answer
from patience import GUARD_SECONDS, until
from vernal_worker.kv.blockstore import BlockStore, Layout, Saved
from vernal_worker.kv.counters import Counters
from vernal_worker.kv.faults import Fault, Faults
from vernal_worker.kv.keys import block_keys
from vernal_worker.kv.loads import Block, Move
from vernal_worker.kv.lookup import Breaker, Lookup
from vernal_worker.kv.planner import LoadPlan, StepPlan
from vernal_worker.kv.saver import Saver
from vernal_worker.kv.settings import Settings
from vernal_worker.kv.sizelimit import SizeLimit
from vernal_worker.kv.slots import Done, Fence, Slots
from vernal_worker.kv.worker_side import KVCache, Store, WorkerSide
from vernal_worker.kv.workers import Workers

PROMPT = list(range(40))


@contextmanager
def no_threads(after: int = 0) -> Iterator[None]:
    """All but the first `after` threads are refused, as by the limit that a container has."""
    started = 0

    def start(thread: threading.Thread) -> None:
        nonlocal started
        if started == after:
            raise RuntimeError("can't start new thread")
        started += 1
        original(thread)

    original = threading.Thread.start
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(threading.Thread, "start", start)
        yield


@pytest.mark.parametrize("load_async", [True, False], ids=["between steps", "in the step"])
@pytest.mark.parametrize("after", range(3))
def test_an_engine_whose_threads_cannot_start_answers_all_the_same(
    tmp_path: Path, load_async: bool, after: int
) -> None:
    fill(tmp_path, PROMPT)
    engine = Engine(tmp_path, Faults(Fault()), load_async=load_async)
    assert engine.worker.flush(GUARD_SECONDS)
    with no_threads(after):
        for _ in range(3):
            assert engine.run([PROMPT])[0].answer == true_answer(PROMPT)
            engine.reset_prefix_cache()
    assert engine.worker.flush(GUARD_SECONDS), "what was refused is not waited for"
    engine.counters.take()
    assert engine.run([PROMPT])[0].answer == true_answer(PROMPT)
    assert engine.counters.take()["loaded_tokens"] > 0, "threads can be had again"
    engine.close()


@pytest.mark.parametrize("load_async", [True, False], ids=["between steps", "in the step"])
def test_a_load_whose_reader_threads_cannot_start_is_counted_and_ends_once(tmp_path: Path, load_async: bool) -> None:
    fill(tmp_path, PROMPT)
    engine = Engine(tmp_path, Faults(Fault()), load_async=load_async)
    start = engine.worker.start

    def without_threads(plan: StepPlan) -> None:
        with no_threads():
            start(plan)

    engine.worker.start = without_threads  # type: ignore[method-assign]
    assert engine.run([PROMPT])[0].answer == true_answer(PROMPT)
    assert engine.counters.take()["load_failures:internal"] > 0
    engine.close()


class _HoldingStore(BlockStore):
    """Has nothing, and says so of `held` only after `go`."""

    held = b"h" * 32
    go = threading.Event()

    def read(self, key: bytes, into: memoryview) -> None:
        if key == self.held:
            assert self.go.wait(GUARD_SECONDS)
        super().read(key, into)


class _HoldingWorker(WorkerSide):
    def make_store(self, settings: Settings, layout: Layout, cache: KVCache) -> Store:
        self.store = Store(_HoldingStore(settings.root, layout), cache, settings, self._counters)
        return self.store


def test_a_load_that_got_fewer_threads_than_it_wanted_ends_once_beside_another(tmp_path: Path) -> None:
    settings = Settings(shared_storage_path=str(tmp_path), load_timeout_seconds=GUARD_SECONDS)
    worker = _HoldingWorker(settings, Counters(), block_tokens=BLOCK_TOKENS, first_rank=True, only_producer=False)
    worker.connect(Memory(8, 4, lambda block_id, value: None), {"model": "m"})
    some = tuple(Block(bytes([n]) * 32, n) for n in range(3))
    with no_threads(after=1):
        worker.start(StepPlan(loads=(LoadPlan("some", some, False),)))
    worker.start(StepPlan(loads=(LoadPlan("held", (Block(_HoldingStore.held, 5),), False),)))
    ended: list[str] = []

    def has_ended(request_id: str) -> bool:
        ended.extend(sorted(worker.finished(False)))
        return request_id in ended

    until("the load whose blocks are missing", lambda: has_ended("some"))
    assert worker.take_invalid() == {0, 1, 2}
    _HoldingStore.go.set()
    until("the other load", lambda: has_ended("held"))
    assert ended == ["some", "held"]
    worker.release(GUARD_SECONDS)


def test_a_task_that_finds_no_thread_is_refused_and_not_waited_for() -> None:
    workers = Workers("test", 2)
    ran: list[int] = []
    with no_threads():
        assert not workers.submit(lambda: ran.append(1))
    assert workers.drain(0.0)
    assert workers.submit(lambda: ran.append(2))
    assert workers.drain(GUARD_SECONDS)
    assert ran == [2]


def test_one_thread_does_the_work_of_those_that_cannot_start() -> None:
    workers = Workers("test", 8)
    ran: list[int] = []
    with no_threads(after=1):
        assert all(workers.submit(lambda n=n: ran.append(n)) for n in range(20))  # type: ignore[misc]
    assert workers.drain(GUARD_SECONDS)
    assert ran == list(range(20))


def test_saves_that_no_thread_can_write_are_dropped_and_hold_no_slot(tmp_path: Path) -> None:
    counters = Counters()
    written: list[bytes] = []

    def write(key: bytes, payload: memoryview) -> Saved:
        written.append(key)
        return Saved.WRITTEN

    def copy(moves: Sequence[Move]) -> Fence:
        return Done()

    limit = SizeLimit(tmp_path, 1000, counters)
    saver = Saver(write, Slots(memoryview(bytearray(8)), 4), Workers("test", 2), counters, limit, 0.0)
    blocks = [Block(key, n) for n, key in enumerate(block_keys(range(2), 1))]
    with no_threads():
        saver.save(blocks, copy)
        limit.full()
    assert counters.take() == {"saves:dropped": 2}
    assert limit.wait(0.0) and not limit._running
    assert saver.flush(0.0)
    saver.save(blocks, copy)
    assert saver.flush(GUARD_SECONDS)
    assert set(written) == {block.key for block in blocks}


def test_a_lookup_that_no_thread_can_make_finds_nothing_and_waits_for_nothing(tmp_path: Path) -> None:
    store = BlockStore(tmp_path, Layout(b"l" * 32, BLOCK_TOKENS, BLOCK_BYTES))
    store.write(b"a" * 32, memoryview(bytearray(BLOCK_BYTES)))
    counters = Counters()
    lookup = Lookup([store], GUARD_SECONDS, Breaker(GUARD_SECONDS, counters), counters)
    with no_threads():
        assert lookup.ask([b"a" * 32]).hits() == 0
    assert lookup.ask([b"a" * 32]).hits(GUARD_SECONDS) == 1, "the store was not to blame: it is asked again at once"
