"""A process that may start no more threads serves on, without the store; what it refused leaves nothing behind."""

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest
from kv_engine_model import BLOCK_BYTES, BLOCK_TOKENS, Engine, fill, true_answer
from patience import GUARD_SECONDS
from vernal_worker.kv.blockstore import BlockStore, Layout, Saved
from vernal_worker.kv.counters import Counters
from vernal_worker.kv.crew import threads
from vernal_worker.kv.faults import Fault, Faults
from vernal_worker.kv.keys import block_keys
from vernal_worker.kv.loads import Block, Move
from vernal_worker.kv.lookup import Breaker, Lookup
from vernal_worker.kv.planner import StepPlan
from vernal_worker.kv.saver import Saver
from vernal_worker.kv.serving import Writes
from vernal_worker.kv.sizelimit import SizeLimit
from vernal_worker.kv.slots import Done, Fence, Slots
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
@pytest.mark.parametrize("after", range(6))
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
    with no_threads():  # else they are started in good time
        engine = Engine(tmp_path, Faults(Fault()), load_async=load_async)
    start = engine.worker.start

    def without_threads(plan: StepPlan) -> None:
        with no_threads():
            start(plan)

    engine.worker.start = without_threads  # type: ignore[method-assign]
    assert engine.run([PROMPT])[0].answer == true_answer(PROMPT)
    assert engine.counters.take()["load_failures:internal"] > 0
    engine.close()


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

    def write(key: bytes, payload: memoryview, replace: bool) -> Saved:
        written.append(key)
        return Saved.WRITTEN

    def copy(moves: Sequence[Move]) -> Fence:
        return Done()

    limit = SizeLimit(tmp_path, 1000, counters)
    slots = Slots(memoryview(bytearray(8)), 4)
    store = BlockStore(tmp_path, Layout(b"l" * 32, 1, 4))
    saver = Saver(threads("test", 2, slots.view, Writes(write)), slots, counters, limit, store, 0.0)
    blocks = [Block(key, n) for n, key in enumerate(block_keys(range(2), 1))]
    for after in (0, 1):  # not the one that saves; that one, but none that write
        with no_threads(after):
            saver.save(blocks, copy)
            assert saver.flush(GUARD_SECONDS)
        assert counters.take() == {"saves:dropped": 2}
        assert slots.free == 2
    with no_threads():
        limit.full()
    assert limit.wait(0.0) and not limit._running
    saver.save(blocks, copy)
    assert saver.flush(GUARD_SECONDS)
    assert set(written) == {block.key for block in blocks}
    saver.stop()


def test_a_lookup_that_no_thread_can_make_finds_nothing_and_waits_for_nothing(tmp_path: Path) -> None:
    store = BlockStore(tmp_path, Layout(b"l" * 32, BLOCK_TOKENS, BLOCK_BYTES))
    store.write(b"a" * 32, memoryview(bytearray(BLOCK_BYTES)))
    counters = Counters()
    lookup = Lookup([store], GUARD_SECONDS, Breaker(GUARD_SECONDS, counters), counters)
    with no_threads():
        assert lookup.ask([b"a" * 32]).hits() == 0
    assert lookup.ask([b"a" * 32]).hits(GUARD_SECONDS) == 1, "the store was not to blame: it is asked again at once"
