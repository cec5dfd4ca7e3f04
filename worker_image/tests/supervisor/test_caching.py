"""What a start makes of its node cache: it is used where it is right, and never in the way."""

import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from patience import until
from vernal_contract import names
from vernal_contract.config import CheckpointConfig, ModelConfig, WorkerConfig, encode
from vernal_contract.identity import HostTuple, IdentityInputs
from vernal_contract.reasons import Reason
from vernal_contract.state import CacheFill, CacheLookup, NodeCacheReport, Phase, WorkerState
from vernal_worker.store.artifact import Artifact
from vernal_worker.store.errors import StoreError
from vernal_worker.store.lease import Owner
from vernal_worker.store.node_cache import FORMAT, NodeCache, View
from vernal_worker.store.pieces import Piece
from vernal_worker.store.receiving import Disk, FromArtifact
from vernal_worker.store.store import Store
from vernal_worker.supervisor import cache_mount, caching, metrics
from vernal_worker.supervisor.board import Board
from vernal_worker.supervisor.caching import Caching
from vernal_worker.supervisor.choose import Cold, Thaw
from vernal_worker.supervisor.context import ConfigError, Context, read_settings
from vernal_worker.supervisor.reaper import Reaper
from vernal_worker.supervisor.steps import Steps
from vernal_worker.supervisor.stop import Stop
from vernal_worker.supervisor.thawing import ThawError

INPUTS = IdentityInputs(image_id="i", engine_args={}, engine_env={}, model="m", weights="InImage", versions={})
HOST = HostTuple(architecture="x86_64", cpu_features=(), kernel="6.18")
LARGE = 1 << 40


def board() -> Board:
    return Board(WorkerState(pod="", namespace="", pool="", revision="", phase=Phase.STARTING))


@pytest.fixture
def artifact(tmp_path: Path) -> Artifact:
    root = tmp_path / "store"
    root.mkdir()
    staging = Store(root).stage(INPUTS, HOST)
    (staging.dir / "oracle.json").write_bytes(b"{}" * 3000)
    return staging.publish(created_by="a").artifact


@pytest.fixture
def cache(place: Path) -> NodeCache:
    return NodeCache(place, LARGE)


class Worker:
    """The steps of one start on the store of `artifact`. `thaw`: what becomes of a thaw, by where it reads."""

    def __init__(self, steps: Steps, monkeypatch: pytest.MonkeyPatch, thaw: Callable[[Path, bool], Any]) -> None:
        self.steps, self.read = steps, list[tuple[bool, bool]]()

        def run(artifact: Artifact, gpus: Any, *, seconds: float, cached: bool) -> Any:
            assert seconds > 0
            self.read.append((cached, FORMAT in artifact.path.parts))
            return thaw(artifact.path, cached)

        monkeypatch.setattr(steps._thawing, "run", run)
        steps._identity, steps._host = INPUTS, HOST

    def start(self) -> Any:
        choice = self.steps._look()
        return self.steps.thaw(choice, None) if isinstance(choice, Thaw) else choice


@pytest.fixture
def worker(tmp_path: Path, cache: NodeCache, artifact: Artifact, monkeypatch: pytest.MonkeyPatch) -> Any:
    (tmp_path / "model").mkdir()
    (tmp_path / "model/config.json").write_text("{}")

    def make(thaw: Callable[[Path, bool], Any]) -> Worker:
        config = WorkerConfig(
            pool="p",
            namespace="n",
            revision="r",
            model=ModelConfig(name="m", path=str(tmp_path / "model")),
            checkpoint=CheckpointConfig(store_path=str(tmp_path / "store")),
        )
        variables = {"PATH": "/bin", names.ENV_CONFIG: encode(config), names.ENV_NODE_CACHE: str(LARGE)}
        of = board()
        monkeypatch.setattr(caching, "opened", lambda size, board, cancel: Caching(cache, "disk", of))
        return Worker(Steps(Context(read_settings(variables), of, Stop(), Reaper())), monkeypatch, thaw)

    return make


ENGINE: Any = object()


@pytest.fixture(autouse=True)
def engine(monkeypatch: pytest.MonkeyPatch) -> None:
    """What these thaws give is as good as an engine."""
    monkeypatch.setattr("vernal_worker.supervisor.steps.Engine", object)
    monkeypatch.setattr("vernal_worker.supervisor.recovery.keep_compiled", lambda *_: None)


def report(worker: Worker) -> Any:
    return worker.steps._board.snapshot().node_cache


def filled(worker: Worker) -> None:
    worker.steps.fill_node_cache()
    until("the cache is filled", lambda: report(worker).fill is not None)


def test_the_first_reads_the_store_and_fills_and_the_second_reads_the_cache(
    worker: Any, artifact: Artifact, capfd: pytest.CaptureFixture[str]
) -> None:
    first, began = worker(lambda path, cached: ENGINE), time.time() - 0.001
    assert first.start() is ENGINE and first.read == [(False, False)]
    filled(first)
    told = report(first)
    assert (told.tier, told.lookup, told.fill) == ("disk", CacheLookup.MISS, CacheFill.FILLED)
    assert told.filled_bytes == artifact.bytes and told.bytes == 0
    assert began <= told.told_at <= time.time() + 0.001, "it is rounded"
    second = worker(lambda path, cached: ENGINE)
    assert second.start() is ENGINE and second.read == [(True, True)]
    told = report(second)
    assert (told.lookup, told.bytes, told.fill) == (CacheLookup.HIT, artifact.bytes, None)
    second.steps.fill_node_cache()  # it has read nothing that is not there
    out = capfd.readouterr().out
    assert [word for word in out.split() if word.startswith("event=node_cache")] == [
        "event=node_cache_miss", "event=node_cache_filled", "event=node_cache_hit",
    ]  # fmt: skip


@pytest.mark.parametrize("reason", sorted(caching.SUSPECT))
def test_what_the_cache_may_be_to_blame_for_is_thawed_from_the_store(
    worker: Any, artifact: Artifact, cache: NodeCache, reason: Reason, capfd: pytest.CaptureFixture[str]
) -> None:
    """And counts against nobody."""
    cache.fill(artifact)

    def thaw(path: Path, cached: bool) -> Any:
        if cached:
            raise ThawError("verify", reason, "what is wrong")
        return ENGINE

    made = worker(thaw)
    assert made.start() is ENGINE and made.read == [(True, True), (False, False)]
    state = made.steps._board.snapshot()
    assert not state.restore_failures
    assert not made.steps.store.failures(INPUTS, HOST, artifact.generation)
    damaged = reason in (
        Reason.DIGEST_MISMATCH,
        Reason.FILE_MISSING,
        Reason.FILE_SIZE_MISMATCH,
        Reason.MANIFEST_INVALID,
    )
    assert report(made).lookup is (CacheLookup.DAMAGED if damaged else CacheLookup.UNAVAILABLE)
    assert report(made).bytes == 0 and report(made).message == "what is wrong"
    out = capfd.readouterr().out
    assert "next_step=" in out and str(reason) in out
    assert (cache.look(artifact.manifest) is None) == damaged
    filled(made)
    assert report(made).filled_bytes == (artifact.bytes if damaged else 0)
    with cache.look(artifact.manifest) as view:  # type: ignore[union-attr]
        Artifact(view.path, artifact.manifest).verify()


def test_another_failure_is_the_checkpoints(worker: Any, artifact: Artifact, cache: NodeCache) -> None:
    """Its bytes were right: to read them once more from elsewhere helps nobody."""
    cache.fill(artifact)

    def thaw(path: Path, cached: bool) -> Any:
        raise ThawError("canary", Reason.CANARY_MISMATCH, "other answers")

    made = worker(thaw)
    choice = made.start()
    assert isinstance(choice, Cold) and choice.reason is Reason.CANARY_MISMATCH
    assert made.read == [(True, True)] and report(made).lookup is CacheLookup.HIT
    assert made.steps.store.failures(INPUTS, HOST, artifact.generation)


def test_a_checkpoint_that_went_meanwhile_is_none(worker: Any, artifact: Artifact, cache: NodeCache) -> None:
    cache.fill(artifact)

    def thaw(path: Path, cached: bool) -> Any:
        made.steps.store.remove(artifact.manifest.identity, grace=0.0)
        raise ThawError("verify", Reason.DIGEST_MISMATCH, "what is wrong")

    made = worker(thaw)
    choice = made.start()
    assert isinstance(choice, Cold) and choice.reason is Reason.NO_ARTIFACT and choice.freeze


def test_what_is_not_current_in_the_store_is_not_thawed_from_the_cache(
    worker: Any, artifact: Artifact, cache: NodeCache
) -> None:
    cache.fill(artifact)
    Store(artifact.path.parents[3]).remove(artifact.manifest.identity, grace=0.0)
    choice = worker(lambda path, cached: ENGINE).start()
    assert isinstance(choice, Cold) and choice.reason is Reason.NO_ARTIFACT


def test_a_manifest_of_other_bytes_is_a_miss(artifact: Artifact, cache: NodeCache) -> None:
    """The same generation and names, with another digest: what is looked for is what the store's manifest says."""
    cache.fill(artifact)
    (entry,) = artifact.manifest.files
    other = msgspec.structs.replace(entry, blake3=("0" * 64,))
    assert cache.look(msgspec.structs.replace(artifact.manifest, files=(other,))) is None


def test_a_view_is_given_back_and_so_is_the_lease(worker: Any, artifact: Artifact, cache: NodeCache) -> None:
    cache.fill(artifact)
    found = worker(lambda path, cached: ENGINE).steps.store.open(INPUTS, HOST, Owner(pod="p"))
    assert found.view is not None and found.artifact is not None and found.artifact.path == found.view.path
    choice = Thaw(found.artifact, found.doubted, found.reading, found.view)
    made = worker(lambda path, cached: ENGINE)
    assert made.steps.thaw(choice, None) is ENGINE
    assert not found.view.path.exists()
    assert found.reading is not None and found.reading._beat.stopped


# --- what is fetched straight to it ---


class Far(FromArtifact):
    """A source whose errors are its own."""

    def damaged(self, piece: Piece, digest: str) -> StoreError:
        return StoreError(Reason.DIGEST_MISMATCH, "pull", str(piece))


def fetch(caching: Caching, artifact: Artifact) -> View | None:
    return caching.fetch(artifact.manifest, Far(artifact), None, lambda done, total: None)


def told(of: Board) -> NodeCacheReport:
    found = of.snapshot().node_cache
    assert found is not None
    return found


def test_what_was_fetched_there_is_thawed_from_there(
    artifact: Artifact, cache: NodeCache, capfd: pytest.CaptureFixture[str]
) -> None:
    of = board()
    made = Caching(cache, "disk", of)
    assert made.look(artifact.manifest) is None
    view = fetch(made, artifact)
    assert view is not None
    with view:
        Artifact(view.path, artifact.manifest).verify()
    assert (told(of).lookup, told(of).fill) == (CacheLookup.MISS, CacheFill.FILLED)
    assert told(of).filled_bytes == artifact.bytes and "event=node_cache_filled" in capfd.readouterr().out


def test_a_cache_in_memory_gets_nothing_before_the_engine_serves(artifact: Artifact, cache: NodeCache) -> None:
    of = board()
    made = Caching(cache, "memory", of)
    assert fetch(made, artifact) is None and cache.look(artifact.manifest) is None
    made.fill(artifact)
    until("it is filled", lambda: told(of).fill is CacheFill.FILLED)


@pytest.mark.parametrize("harm", ["full", "broken"])
def test_a_cache_that_takes_nothing_is_told_once_and_not_asked_again(
    artifact: Artifact, cache: NodeCache, place: Path, harm: str, capfd: pytest.CaptureFixture[str]
) -> None:
    if harm == "full":
        cache._limit = 1
    else:
        (place / FORMAT).write_text("a file where a directory should be")
    of = board()
    made = Caching(cache, "disk", of)
    assert fetch(made, artifact) is None
    assert told(of).fill is (CacheFill.FULL if harm == "full" else CacheFill.FAILED) and told(of).message
    before = set(threading.enumerate())
    made.fill(artifact)
    assert set(threading.enumerate()) <= before, "nobody fills it"
    out = capfd.readouterr().out
    assert out.count("event=node_cache_not_filled") == 1 and out.count("next_step=") == 1


def test_what_the_source_says_is_passed_on(artifact: Artifact, cache: NodeCache) -> None:
    """A bucket with other bytes is not the cache's fault, and no way around the cache mends it."""
    (artifact.path / "oracle.json").write_bytes(b"[]" * 3000)
    of = board()
    with pytest.raises(StoreError) as error:
        fetch(Caching(cache, "disk", of), artifact)
    assert (error.value.reason, error.value.stage) == (Reason.DIGEST_MISMATCH, "pull")
    assert told(of).fill is None


def test_who_is_told_to_stop_goes_no_other_way(artifact: Artifact, place: Path) -> None:
    cancel, of = threading.Event(), board()
    cancel.set()
    with pytest.raises(StoreError) as error:
        fetch(Caching(NodeCache(place, LARGE, cancel=cancel), "disk", of), artifact)
    assert error.value.reason is Reason.THAW_GIVEN_UP and told(of).fill is None


def test_one_that_another_worker_is_filling_is_filled_later(artifact: Artifact, cache: NodeCache, place: Path) -> None:
    """By who went elsewhere meanwhile: it has not refused anything."""
    of = board()
    made = Caching(cache, "disk", of)
    with NodeCache(place, LARGE)._turn("another", Disk(), lambda others: True):
        assert made.fetch(artifact.manifest, Far(artifact), 60.0, lambda done, total: None) is None
    assert told(of).fill is None
    made.fill(artifact)
    until("it is filled", lambda: told(of).fill is CacheFill.FILLED)


def test_one_that_was_distrusted_gets_nothing(artifact: Artifact, cache: NodeCache) -> None:
    made = Caching(cache, "disk", board())
    made.distrust(artifact, Reason.DIGEST_MISMATCH, "other bytes")
    assert fetch(made, artifact) is None and cache.look(artifact.manifest) is None


# --- a cache that cannot be used ---


def test_a_disk_that_does_not_work_is_as_none(
    worker: Any, cache: NodeCache, place: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (place / FORMAT).write_text("a file where a directory should be")
    made = worker(lambda path, cached: ENGINE)
    assert made.start() is ENGINE and made.read == [(False, False)]
    assert report(made).lookup is CacheLookup.UNAVAILABLE
    filled(made)
    assert report(made).fill is CacheFill.FAILED and FORMAT in report(made).message
    out = capfd.readouterr().out
    assert "event=node_cache_unavailable" in out and "event=node_cache_not_filled" in out
    assert out.count("next_step=") == 2 and "nodeCache.directory" in out


def test_no_room_is_said(worker: Any, cache: NodeCache, capfd: pytest.CaptureFixture[str]) -> None:
    cache._limit = 1
    made = worker(lambda path, cached: ENGINE)
    assert made.start() is ENGINE
    filled(made)
    assert report(made).fill is CacheFill.FULL and "nodeCache.size" in capfd.readouterr().out


def test_that_there_is_one_is_told_before_anything_is_looked_for(cache: NodeCache) -> None:
    of = board()
    Caching(cache, "memory", of)
    told = of.snapshot().node_cache
    assert told is not None and (told.tier, told.lookup, told.fill) == ("memory", None, None)


def test_who_is_told_to_stop_says_nothing_of_it(
    artifact: Artifact, place: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    cancel, of = threading.Event(), board()
    made = Caching(NodeCache(place, LARGE, cancel=cancel), "disk", of)
    cancel.set()
    assert made.look(artifact.manifest) is None
    made._fill(NodeCache(place, LARGE, cancel=cancel), artifact)
    told = of.snapshot().node_cache
    assert told is not None and told.fill is None and "level=error" not in capfd.readouterr().out


def test_where_nothing_is_mounted_there_is_none(capfd: pytest.CaptureFixture[str]) -> None:
    of = board()
    made = caching.opened(LARGE, of, threading.Event())
    told = of.snapshot().node_cache
    assert told is not None and told.lookup is CacheLookup.UNAVAILABLE and names.PATH_NODE_CACHE in told.message
    assert "event=node_cache_unavailable" in capfd.readouterr().out
    assert made.look(None) is None  # type: ignore[arg-type]  # which is not asked


def test_what_is_no_mount_is_not_taken(tmp_path: Path) -> None:
    """The engine would see it."""
    with pytest.raises(OSError, match=str(tmp_path)):
        cache_mount.take(tmp_path)


def test_without_the_variable_there_is_none_and_nothing_is_said(capfd: pytest.CaptureFixture[str]) -> None:
    of = board()
    caching.opened(None, of, threading.Event()).fill(None)  # type: ignore[arg-type]  # which is not read
    assert of.snapshot().node_cache is None and not capfd.readouterr().out


def test_the_limit(tmp_path: Path) -> None:
    config = WorkerConfig(pool="p", namespace="n", revision="r", model=ModelConfig(name="m"))

    def read(**more: str) -> int | None:
        return read_settings({"PATH": "/bin", names.ENV_CONFIG: encode(config), **more}).node_cache

    assert read() is None and read(**{names.ENV_NODE_CACHE: "17"}) == 17
    with pytest.raises(ConfigError, match=names.ENV_NODE_CACHE):
        read(**{names.ENV_NODE_CACHE: "10Gi"})


def test_memory_that_is_spare(tmp_path: Path) -> None:
    assert caching.spare_memory(tmp_path) is None
    for limit, spare in (("max", None), ("1000", 400), ("500", 0)):
        (tmp_path / "memory.max").write_text(f"{limit}\n")
        (tmp_path / "memory.current").write_text("600\n")
        assert caching.spare_memory(tmp_path) == spare


def test_metrics(worker: Any, artifact: Artifact) -> None:
    made = worker(lambda path, cached: ENGINE)
    made.start()
    filled(made)
    text = metrics.text(made.steps._board.snapshot())
    assert 'vernal_worker_node_cache_lookups_total{result="Miss"} 1.0' in text
    assert 'vernal_worker_node_cache_fills_total{result="Filled"} 1.0' in text
    assert f'vernal_worker_node_cache_bytes_total{{result="Filled"}} {float(artifact.bytes)}' in text
    assert 'vernal_worker_node_cache_seconds{phase="fill"}' in text
