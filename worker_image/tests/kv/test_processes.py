"""Processes that read and write for the engine: whatever becomes of one, the engine goes on, and nothing is left."""

import contextlib
import errno
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
import torch
from kv_engine_model import FACTS
from patience import GUARD_SECONDS, until
from vernal_worker.kv import processes
from vernal_worker.kv.blockfile import DIGEST_BYTES, Failure
from vernal_worker.kv.blockstore import BlockStore
from vernal_worker.kv.counters import Counters
from vernal_worker.kv.jobs import MOST_BLOCKS, Answer, framed
from vernal_worker.kv.keys import block_keys
from vernal_worker.kv.loader import Loader
from vernal_worker.kv.loads import Block
from vernal_worker.kv.pages import Pages
from vernal_worker.kv.planner import LoadPlan, StepPlan
from vernal_worker.kv.settings import Settings
from vernal_worker.kv.worker_side import WorkerSide

BLOCKS = 48
KEYS = block_keys(range(BLOCKS), 1)
ALL = tuple(Block(key, number) for number, key in enumerate(KEYS))


def _in(pid: int, file: str) -> str:
    try:
        return Path(f"/proc/{pid}/{file}").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return ""


def _descendants(pid: int) -> list[int]:
    children = [int(child) for child in _in(pid, f"task/{pid}/children").split()]
    for thread in Path(f"/proc/{pid}/task").iterdir() if Path(f"/proc/{pid}/task").exists() else ():
        if int(thread.name) != pid:
            children += [int(child) for child in _in(pid, f"task/{thread.name}/children").split()]
    return [found for child in children for found in (child, *_descendants(child))]


def _ours(pid: int = os.getpid()) -> list[int]:
    """Processes that read or write blocks, of those that descend from `pid`."""
    return [one for one in _descendants(pid) if _in(one, "comm").startswith("vernal-kv-") and _is_alive(one)]


def _crew(name: str, count: int) -> list[int]:
    """The processes of a crew, once all are there: they are started in the background."""

    def found() -> list[int]:
        pids = [pid for pid in _ours() if _in(pid, "comm").startswith(f"vernal-kv-{name}")]
        return pids if len(pids) == count else []

    return until(f"{count} processes that {name}", found)


def _is_alive(pid: int) -> bool:
    status = _in(pid, "stat").rpartition(")")[2].split()
    return bool(status) and status[0] not in "ZX"


def _descriptors() -> list[str]:
    """What this process has open, but for what it had before any test."""
    found = []
    for link in Path("/proc/self/fd").iterdir():
        try:
            found.append(str(link.readlink()))
        except FileNotFoundError:  # that of the listing itself
            continue
    return sorted(found)


def test_an_answer_is_what_a_pipe_takes_at_once() -> None:
    """Else two of them could be mixed. All blocks of the largest job were read, but for the last."""
    outcomes = ["", *[Failure.PERMISSION] * (MOST_BLOCKS - 1)], [""] * (MOST_BLOCKS - 1) + [Failure.PERMISSION]
    for said in outcomes:
        digests = bytes(DIGEST_BYTES) * said.count("")
        answer = Answer(2**63, list(said), "\N{SNOWMAN}" * 10_000, True, 1e300, digests)
        assert len(framed(answer)) <= select.PIPE_BUF


class Rig:
    """A worker with a KV cache of tensors on a CPU, and processes as in production."""

    def __init__(self, root: Path, *, threads: int = 8, load_mib: int = 1, producer: bool = False) -> None:
        self.caches = {str(n): torch.zeros((BLOCKS, 2, 16, 4, 64), dtype=torch.int16) for n in range(2)}
        self.pages = Pages(self.caches, BLOCKS)
        self.counters = Counters()
        settings = Settings(
            shared_storage_path=str(root),
            threads=threads,
            load_buffer_mib=load_mib,
            save_buffer_mib=16,
            load_timeout_seconds=GUARD_SECONDS,
            cooldown_seconds=0.0,
        )
        self.worker = WorkerSide(settings, self.counters, block_tokens=1, first_rank=True, only_producer=producer)
        self.settings = settings
        self.worker.connect(self.pages, FACTS)
        for number in range(BLOCKS):
            for layer, cache in enumerate(self.caches.values()):
                cache[number] = 100 * layer + number + 1

    def save(self) -> dict[str, float]:
        self.worker.save(StepPlan(saves=ALL))
        assert self.worker.flush(GUARD_SECONDS)
        return self.counted("saves:")

    def counted(self, prefix: str) -> dict[str, float]:
        return {name: value for name, value in self.counters.take().items() if name.startswith(prefix)}

    def start(self, name: str = "r", blocks: Sequence[Block] = ALL) -> None:
        self.worker.start(StepPlan(loads=(LoadPlan(name, tuple(blocks), False),)))

    def ended(self, *names: str) -> dict[int, Failure]:
        ended: set[str] = set()

        def all_have_ended() -> bool:
            ended.update(self.worker.finished(True))
            return ended == set(names or ("r",))

        until("the loads to end", all_have_ended)
        report = self.worker.take_report()
        return report.failures if report else {}

    def assert_loaded(self) -> None:
        for layer, cache in enumerate(self.caches.values()):
            for number in range(BLOCKS):
                assert (cache[number] == 100 * layer + number + 1).all()

    def forget(self) -> None:
        for cache in self.caches.values():
            cache.zero_()

    @property
    def loader(self) -> Loader:
        assert self.worker._store is not None
        return self.worker._store.loader


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    rig = Rig(tmp_path)
    yield rig
    rig.worker.release(GUARD_SECONDS)
    assert _ours() == []


def test_what_is_saved_is_loaded(rig: Rig) -> None:
    assert rig.save() == {"saves:written": BLOCKS}
    rig.forget()
    rig.start()
    assert rig.ended() == {}
    rig.assert_loaded()
    assert rig.save() == {"saves:present": BLOCKS}


def test_loads_share_few_slots(rig: Rig) -> None:
    rig.save()
    rig.forget()
    store = rig.worker._store
    assert store is not None and store.loader._slots.count < BLOCKS
    rig.start("one", ALL[: BLOCKS // 2])
    rig.start("two", ALL[BLOCKS // 2 :])
    assert rig.ended("one", "two") == {}
    rig.assert_loaded()
    until("every slot to be free again", lambda: rig.worker.finished(True) or _free(rig.loader))


def _free(loader: Loader) -> bool:
    loader.warm()
    return loader._slots.free == loader._slots.count


def test_a_process_forks_its_siblings_and_imports_next_to_nothing(rig: Rig) -> None:
    until("four processes for 8 + 4 threads", lambda: rig.save() and len(_ours()) == 3)
    first = [pid for pid in _ours() if pid in _children()]
    assert len(first) == 2, "one for loads, one for saves; the other is its child"
    for pid in _ours():
        maps = _in(pid, "maps")
        assert "torch" not in maps and "/memfd:vernal-kv" in maps


def _children() -> list[int]:
    return [
        int(child)
        for thread in Path("/proc/self/task").iterdir()
        for child in _in(os.getpid(), f"task/{thread.name}/children").split()
    ]


def _stop(pids: Sequence[int]) -> None:
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    for pid in pids:
        until("a process to be stopped", lambda pid=pid: _in(pid, "stat").rpartition(")")[2].split()[0] in "tT")  # type: ignore[misc]


def _go_on(pids: Sequence[int]) -> None:
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):  # one of the killed one's
            os.kill(pid, signal.SIGCONT)


def _with_readers(rig: "Rig") -> list[int]:
    """A load under way, whose jobs processes have that stand still: these."""
    rig.save()
    rig.forget()
    readers = _crew("load", 2)
    _stop(readers)
    rig.start()
    until("jobs to be given out", lambda: rig.loader._readings)
    return readers


@pytest.mark.parametrize("which", ["the first", "a sibling"])
def test_a_process_that_is_killed_in_a_load_costs_the_blocks_that_it_had(
    rig: Rig, which: str, caplog: pytest.LogCaptureFixture
) -> None:
    readers = _with_readers(rig)
    os.kill(min(readers) if which == "the first" else max(readers), signal.SIGKILL)
    _go_on(readers)
    assert set(rig.ended().values()) <= {Failure.INTERNAL, Failure.SKIPPED}
    until("the log to say so", lambda: "a process that reads KV blocks has ended" in caplog.text)
    until("all of them to be gone", lambda: not any(map(_is_alive, readers)))
    rig.start()
    assert rig.ended() == {}, "the next load starts others"
    rig.assert_loaded()
    until("every slot to be free again", lambda: _free(rig.loader))


def test_a_process_that_is_killed_in_a_save_costs_the_blocks_that_it_had(
    rig: Rig, caplog: pytest.LogCaptureFixture
) -> None:
    rig.worker.save(StepPlan(saves=ALL[:1]))
    assert rig.worker.flush(GUARD_SECONDS)
    rig.counters.take()
    writers = _crew("save", 1)
    _stop(writers)
    rig.worker.save(StepPlan(saves=ALL[1:]))
    store = rig.worker._store
    assert store is not None
    until("jobs to be given out", lambda: store.saver._writings)
    for pid in writers:
        os.kill(pid, signal.SIGKILL)
    assert rig.worker.flush(GUARD_SECONDS)
    outcomes = rig.counted("saves:")
    assert outcomes["saves:dropped"] > 0 and sum(outcomes.values()) == BLOCKS - 1
    assert "a process that writes KV blocks has ended" in caplog.text
    assert store.saver._slots.free == store.saver._slots.count
    store.saver._holes.clear()
    assert sum(rig.save().values()) == BLOCKS
    assert len(list(store.blocks.root.glob("*/*/*.kv"))) == BLOCKS


def test_an_engine_that_may_start_no_process_computes_and_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """As by the limit that a container has."""

    def refuse(*_: object, **__: object) -> None:
        raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))

    with monkeypatch.context() as patch:
        patch.setattr(subprocess, "Popen", refuse)
        rig = Rig(tmp_path)
        assert rig.save() == {"saves:dropped": BLOCKS}
        rig.start()
        assert set(rig.ended().values()) == {Failure.INTERNAL}
        assert rig.counted("load_failures") == {"load_failures:internal": BLOCKS}
        assert "no process for vernal-kv-load" in caplog.text and "no process for vernal-kv-save" in caplog.text
    rig.worker._store.saver._holes.clear()  # type: ignore[union-attr]
    assert rig.save() == {"saves:written": BLOCKS}
    rig.forget()
    rig.start()
    assert rig.ended() == {}
    rig.assert_loaded()
    rig.worker.release(GUARD_SECONDS)


def test_siblings_that_cannot_be_forked_are_done_without(tmp_path: Path) -> None:
    """A limit on processes that lets one start: more may be refused, and it does all of the work."""
    code = (
        "import os, sys; from vernal_worker.kv import child\n"
        "def fork(): raise BlockingIOError(11, 'of the test')\n"
        "os.fork = fork; child.main()"
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(processes, "_PROGRAM", f"import sys; sys.path[:0] = sys.argv[2:]\n{code}")
        rig = Rig(tmp_path)
        rig.save()
        rig.forget()
        rig.start()
        assert rig.ended() == {}
        rig.assert_loaded()
        assert len(_ours()) == 2
        rig.worker.release(GUARD_SECONDS)


def test_nothing_is_left_of_a_store_that_is_released(tmp_path: Path) -> None:
    """A frozen process tree must not have a process, a descriptor or memory of it; a thawed one has them again."""
    before = _descriptors()
    rig = Rig(tmp_path)
    for _ in range(2):
        rig.save()
        rig.start()
        rig.ended()
        assert _ours() and "memfd:vernal-kv" in _in(os.getpid(), "maps")
        pids = _ours()
        rig.worker.release(GUARD_SECONDS)
        assert not any(Path(f"/proc/{pid}").exists() for pid in pids), "not even as zombies"
        assert "memfd:vernal-kv" not in _in(os.getpid(), "maps")
        assert _descriptors() == before
        rig.worker.reconnect(rig.settings)
        until("processes for loads, in good time", _ours)
    rig.worker.release(GUARD_SECONDS)
    assert _ours() == [] and _descriptors() == before


def test_a_release_does_not_wait_for_a_process_that_does_not_end(
    rig: Rig, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A stopped one stands for one that storage holds."""
    rig.save()
    monkeypatch.setattr("vernal_worker.kv.crew._JOIN_SECONDS", 0.1)
    pids = [*_crew("load", 2), *_crew("save", 1)]
    _stop(pids)
    rig.start()
    rig.worker.release(0.1)
    assert not any(map(_is_alive, pids))
    assert set(rig.ended().values()) == {Failure.CLOSED}


_ENGINE = """
import sys, time
from pathlib import Path
from test_processes import Rig, _ours
rig = Rig(Path(sys.argv[1]))
rig.save()
rig.start()
rig.ended()
print(*_ours(), flush=True)
time.sleep(float(sys.argv[2]))
"""


def test_processes_of_an_engine_that_is_killed_end(tmp_path: Path) -> None:
    engine = subprocess.Popen(
        [sys.executable, "-c", _ENGINE, str(tmp_path), str(2 * GUARD_SECONDS)],
        env=os.environ | {"PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *sys.path])},
        stdout=subprocess.PIPE,
        text=True,
    )
    assert engine.stdout is not None
    pids = [int(pid) for pid in engine.stdout.readline().split()]
    assert len(pids) == 3 and all(map(_is_alive, pids))
    engine.kill()
    engine.wait()
    until("its processes to be gone", lambda: not any(map(_is_alive, pids)))
    engine.stdout.close()


def test_the_answer_to_a_job_whose_load_was_given_up_copies_nothing(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    readers = _with_readers(rig)
    held = rig.loader._slots.free
    monkeypatch.setattr("vernal_worker.kv.loader.monotonic", lambda: time.monotonic() + 2 * GUARD_SECONDS)
    failures = rig.ended()
    assert set(failures.values()) == {Failure.SLOW}
    assert rig.loader._slots.free == held, "a slot that is with storage is nobody's to use"
    _go_on(readers)
    until("their slots to come back", lambda: rig.loader._slots.free == rig.loader._slots.count)
    assert not any(cache.any() for cache in rig.caches.values())


def test_a_block_that_no_process_can_read_is_replaced_by_another(rig: Rig) -> None:
    """Who reads is not who writes."""
    rig.save()
    store = rig.worker._store
    assert store is not None
    path = BlockStore.path(store.blocks, KEYS[3])
    path.unlink()
    path.symlink_to(path.with_name("elsewhere"))
    path.with_name("elsewhere").write_bytes(b"x")
    rig.start()
    failures = rig.ended()
    assert failures[3] is Failure.UNREADABLE
    assert rig.save() == {"saves:written": 1, "saves:present": BLOCKS - 1}
    assert not path.is_symlink()
    rig.start()
    assert rig.ended() == {}
