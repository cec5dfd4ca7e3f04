"""The two sides over their life: connected, released for a freeze, reconnected elsewhere, flushed at the end."""

import inspect
import threading
from pathlib import Path

import pytest
from kv_engine_model import BLOCK_BYTES, BLOCK_TOKENS, Engine, Memory, fill, true_answer
from patience import GUARD_SECONDS, until
from vernal_worker.kv import lifecycle, settings
from vernal_worker.kv.blockfile import Failure
from vernal_worker.kv.blockstore import BlockStore, Layout, Saved
from vernal_worker.kv.counters import Counters
from vernal_worker.kv.faults import Fault, Faults, Kind, Where
from vernal_worker.kv.faulty_sides import LocalStore
from vernal_worker.kv.loads import Block
from vernal_worker.kv.planner import Report, Scheduled, StepPlan
from vernal_worker.kv.scheduler_side import Prompt, SchedulerSide
from vernal_worker.kv.worker_side import KVCache, Store, WorkerSide

PROMPT = list(range(40))
LAYOUT = Layout(b"l" * 32, BLOCK_TOKENS, BLOCK_BYTES)
PATIENT = {"lookup_timeout_seconds": GUARD_SECONDS, "load_timeout_seconds": GUARD_SECONDS}
"""Storage is waited for, also where the thread that asks it has to wait for its turn."""


def test_one_slow_load_leaves_the_store_on_and_storage_that_answers_nobody_turns_it_off(tmp_path: Path) -> None:
    options = settings.parse({"shared_storage_path": str(tmp_path), "cooldown_seconds": 2 * GUARD_SECONDS})
    side = SchedulerSide(options, Counters(), block_tokens=4, ranks=1, loads=True, saves=True)
    side.observe({1}, ["r"], [Report(failures={1: Failure.SLOW})])
    assert not side.breaker.open
    side.observe({1}, ["r"], [Report(failures={1: Failure.SLOW}, hung=True)])
    assert side.breaker.open


def _told(engine: Engine) -> list[Report]:
    """What the worker tells the scheduler from now on."""
    told: list[Report] = []
    take = engine.worker.take_report

    def watched() -> Report | None:
        report = take()
        told.extend([report] if report else [])
        return report

    engine.worker.take_report = watched  # type: ignore[method-assign]
    return told


@pytest.mark.parametrize("load_async", [True, False], ids=["between steps", "in the step"])
def test_the_scheduler_is_told_that_storage_answers_nobody(tmp_path: Path, load_async: bool) -> None:
    fill(tmp_path, PROMPT)
    hold = tmp_path / "hold"
    hold.touch()
    fault = Fault(kind=Kind.SLOW, where=Where.ALL, hold=str(hold))
    engine = Engine(tmp_path, Faults(fault), load_timeout=0.05, load_async=load_async)
    told = _told(engine)
    assert engine.run([PROMPT])[0].answer == true_answer(PROMPT)
    assert [report.hung for report in told] == [True]
    hold.unlink()
    engine.close()


def test_the_scheduler_is_told_how_fast_loads_are(tmp_path: Path) -> None:
    prompt = [number % 256 for number in range(100 * BLOCK_TOKENS)]
    fill(tmp_path, prompt)
    engine = Engine(tmp_path, Faults(Fault()), blocks=128, slots=128)
    told = _told(engine)
    assert engine.run([prompt])[0].answer == true_answer(prompt)
    assert [report.rate is not None and report.rate > 0 for report in told] == [True]
    engine.close()


def blocks_under(root: Path) -> int:
    return len(list(root.glob("*/*/*.kv")))


def test_a_thawed_worker_uses_the_store_of_its_new_pod(tmp_path: Path) -> None:
    """Released before the freeze, nothing is offered or saved; reconnected, everything is, under the new path."""
    old, new = tmp_path / "old", tmp_path / "new"
    engine = Engine(old, Faults(Fault()), slots=16)  # one for each block, so that no save is dropped
    engine.run([PROMPT])
    engine.close()
    saved = blocks_under(old)
    assert saved == len(PROMPT) // BLOCK_TOKENS
    engine.reset_prefix_cache()
    assert engine.run([PROMPT])[0].answer == true_answer(PROMPT)
    assert engine.counters.take().get("loaded_tokens", 0) == 0

    moved = settings.parse({"shared_storage_path": str(new), "cooldown_seconds": 0.0, **PATIENT})
    engine.worker.reconnect(moved)
    engine.scheduler.reconnect(moved)
    engine.reset_prefix_cache()
    engine.run([PROMPT])
    assert engine.worker.flush(GUARD_SECONDS)
    assert (blocks_under(old), blocks_under(new)) == (saved, saved)
    engine.reset_prefix_cache()
    engine.counters.take()
    assert engine.run([PROMPT])[0].answer == true_answer(PROMPT)
    assert engine.counters.take()["loaded_tokens"] > 0
    engine.close()


def test_after_a_reset_an_engine_shares_with_itself_alone(tmp_path: Path) -> None:
    """vLLM resets a connector's cache when weights were changed, and says nothing about which they are now."""
    saved = len(PROMPT) // BLOCK_TOKENS
    fill(tmp_path, PROMPT)
    changed, other = (Engine(tmp_path, Faults(Fault()), slots=16) for _ in range(2))
    for engine in (changed, other):
        engine.scheduler.release()
        engine.scheduler.reset()  # of an engine that is being frozen: its weights stay
        engine.scheduler.reconnect(settings.parse({"shared_storage_path": str(tmp_path), **PATIENT}))

    def loaded(engine: Engine) -> float:
        engine.reset_prefix_cache()
        engine.counters.take()
        assert engine.run([PROMPT])[0].answer == true_answer(PROMPT)
        assert engine.worker.flush(GUARD_SECONDS)
        return engine.counters.take().get("loaded_tokens", 0)

    assert loaded(changed) > 0
    changed.scheduler.reset()
    assert (loaded(changed), blocks_under(tmp_path)) == (0, 2 * saved)
    assert loaded(changed) > 0, "its own"
    changed.scheduler.reset()
    assert (loaded(changed), blocks_under(tmp_path)) == (0, 3 * saved), "which may have changed again"
    assert loaded(other) > 0 and blocks_under(tmp_path) == 3 * saved
    changed.close()
    other.close()


def test_a_prompt_of_which_something_is_not_known_is_not_shared(tmp_path: Path) -> None:
    engine = Engine(tmp_path, Faults(Fault()))
    prompt = Prompt("r", PROMPT, len(PROMPT), lambda: None, True)
    assert engine.scheduler.match(prompt, 0) == (0, False)
    assert engine.scheduler.planner.plan([Scheduled("r", 0, len(PROMPT), range(10), True)]).saves == ()
    engine.close()


def test_a_store_that_is_not_there_costs_nothing_but_hits(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way of the store's directory")
    engine = Engine(tmp_path / "file", Faults(Fault()))
    assert engine.run([PROMPT])[0].answer == true_answer(PROMPT)
    engine.close()


def test_a_load_that_is_under_way_at_release_fails(tmp_path: Path) -> None:
    fill(tmp_path, PROMPT)
    hold = tmp_path / "hold"
    hold.touch()
    engine = Engine(tmp_path, Faults(Fault(kind=Kind.SLOW, where=Where.ALL, hold=str(hold))))
    finished = engine.worker.finished

    def release_first(idle: bool) -> set[str]:
        """In the engine's thread, between two steps."""
        if engine.worker._loads:
            engine.worker.release(0.0)
        return finished(idle)

    engine.worker.finished = release_first  # type: ignore[method-assign]
    assert engine.run([PROMPT])[0].answer == true_answer(PROMPT)
    assert engine.counters.take()["load_failures:closed"] > 0
    hold.unlink()


class _HeldStore(BlockStore):
    """Writes nothing before `go`."""

    def __init__(self, root: Path, layout: Layout) -> None:
        super().__init__(root, layout)
        self.asked, self.go = threading.Event(), threading.Event()

    def write(self, key: bytes, payload: memoryview, replace: bool = False) -> Saved:
        self.asked.set()
        assert self.go.wait(GUARD_SECONDS)
        return super().write(key, payload, replace)


class _HeldWorker(WorkerSide):
    def make_store(self, settings: settings.Settings, layout: Layout, cache: KVCache) -> Store:
        self.blocks = _HeldStore(settings.root, layout)
        return LocalStore(self.blocks, cache, settings, self._counters)


@pytest.mark.parametrize("timeout", [GUARD_SECONDS, 0.1], ids=["in time", "too late"])
def test_a_worker_that_exits_finishes_its_saves_or_times_out(tmp_path: Path, timeout: float) -> None:
    worker = _HeldWorker(
        settings.parse({"shared_storage_path": str(tmp_path), "threads": 1}),
        Counters(),
        block_tokens=BLOCK_TOKENS,
        first_rank=True,
        only_producer=True,
    )
    worker.connect(Memory(8, 4, lambda block_id, value: None), {"model": "m"})
    worker.save(StepPlan(saves=tuple(Block(bytes([n]) * 32, n) for n in range(3))))
    assert worker.blocks.asked.wait(GUARD_SECONDS)
    if timeout == GUARD_SECONDS:
        threading.Timer(0.1, worker.blocks.go.set).start()
    worker.release(timeout)
    assert blocks_under(tmp_path) == (3 if timeout == GUARD_SECONDS else 0)
    worker.blocks.go.set()


def test_all_connectors_of_a_process_are_asked() -> None:
    class Connector:
        def __init__(self, flushed: bool) -> None:
            self.flushed, self.calls = flushed, list[str]()

        def flush(self, timeout: float) -> bool:
            self.calls.append("flush")
            return self.flushed

        def release(self, timeout: float) -> None:
            self.calls.append("release")

        def reconnect(self, path: Path | None) -> None:
            self.calls.append(f"reconnect {path}")

        def reset_cache(self) -> bool:
            self.calls.append("reset")
            return True

    connectors = [Connector(False), Connector(True)]
    for connector in connectors:
        lifecycle.sign_up(connector)
    assert not lifecycle.flush(0.1)
    lifecycle.release(0.1)
    lifecycle.reconnect("/new")
    lifecycle.weights_changed()
    assert [connector.calls for connector in connectors] == [["flush", "release", "reconnect /new", "reset"]] * 2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "shared_storage_path"),
        ({"shared_storage_path": "relative"}, "absolute"),
        ({"shared_storage_path": "/s", "max_byte": 1}, "max_byte"),
        ({"shared_storage_path": "/s", "threads": 0}, "threads"),
        ({"shared_storage_path": "/s", "load_async": "yes"}, "load_async"),
    ],
)
def test_a_wrong_option_is_named(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        settings.parse(options)


@pytest.mark.parametrize(
    ("wanted", "ranks", "synchronous", "expected"),
    [(False, 1, True, False), (True, 1, True, True), (False, 2, True, True), (False, 1, False, True)],
)
def test_loads_wait_only_where_the_engine_recovers_from_their_failure(
    tmp_path: Path, wanted: bool, ranks: int, synchronous: bool, expected: bool
) -> None:
    options = settings.parse({"shared_storage_path": str(tmp_path), "load_async": wanted})
    side = SchedulerSide(
        options, Counters(), block_tokens=4, ranks=ranks, loads=True, saves=True, synchronous=synchronous
    )
    assert side.load_async() is expected


@pytest.mark.integration
def test_new_weights_reach_every_connector_of_the_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    """Through the calls that vLLM's EngineCore gets, whoever makes them, and also if they fail half-way."""
    from vernal_worker.engine import worker_extension
    from vllm.v1.engine.core import EngineCore

    monkeypatch.setattr(EngineCore, "collective_rpc", EngineCore.collective_rpc)  # put back at the end
    calls: list[str] = []

    class Executor:
        def collective_rpc(self, method: str, *_: object) -> list[None]:
            calls.append(method)
            if method == "update_weights":
                raise ConnectionError("half-way")
            return [None]

    class Connector:
        def reset_cache(self) -> bool:
            calls.append("reset")
            return True

    worker_extension.install_in_engine_core()
    connector = Connector()
    monkeypatch.setattr(lifecycle, "_connectors", {connector})
    assert list(inspect.signature(EngineCore.collective_rpc).parameters) == [
        "self",
        "method",
        "timeout",
        "args",
        "kwargs",
    ]
    core = EngineCore.__new__(EngineCore)
    core.model_executor = Executor()
    assert core.collective_rpc("check_health") == [None]
    assert core.collective_rpc("reload_weights", None, (), {}) == [None]
    with pytest.raises(ConnectionError):
        core.collective_rpc("update_weights", kwargs={"update_info": {}})
    assert calls == ["check_health", "reload_weights", "reset", "update_weights", "reset"]


class _CountingStore(BlockStore):
    """Holds writes until `go`, and counts those that are under way."""

    def __init__(self, root: Path, layout: Layout) -> None:
        super().__init__(root, layout)
        self.lock, self.go = threading.Lock(), threading.Event()
        self.writing = 0

    def write(self, key: bytes, payload: memoryview, replace: bool = False) -> Saved:
        with self.lock:
            self.writing += 1
        assert self.go.wait(GUARD_SECONDS)
        return super().write(key, payload, replace)


@pytest.mark.parametrize(("threads", "writing"), [(4, 2), (1, 1)])
def test_half_of_the_threads_save(tmp_path: Path, threads: int, writing: int) -> None:
    blocks = _CountingStore(tmp_path, LAYOUT)
    options = settings.parse({"shared_storage_path": str(tmp_path), "threads": threads})
    store = LocalStore(blocks, Memory(8, 8, lambda block_id, value: None), options, Counters())
    store.saver.save([Block(bytes([n]) * 32, n) for n in range(8)], store.copy_out)
    until("the threads to write", lambda: blocks.writing == writing)
    assert store.saver._crew.size == writing, "no other can begin to"
    blocks.go.set()
    assert store.flush(GUARD_SECONDS)
    store.stop(GUARD_SECONDS)
