"""After a failed thaw the compiled kernels of the checkpoint are there for the cold start, and nothing else of it."""

from pathlib import Path

import pytest
from msgspec.structs import replace
from vernal_contract.config import ModelConfig, WorkerConfig, encode
from vernal_contract.identity import HostTuple, IdentityInputs
from vernal_contract.names import ENV_CONFIG
from vernal_contract.reasons import Reason
from vernal_contract.state import Phase, WorkerState
from vernal_worker.checkpoint import carry, process
from vernal_worker.store.artifact import Artifact
from vernal_worker.store.store import Store
from vernal_worker.supervisor.board import Board
from vernal_worker.supervisor.context import Context, read_settings
from vernal_worker.supervisor.environment import RunPaths
from vernal_worker.supervisor.parts import PROCESS
from vernal_worker.supervisor.reaper import Reaper
from vernal_worker.supervisor.recovery import keep_compiled
from vernal_worker.supervisor.stop import Stop
from vernal_worker.supervisor.workspace import Workspace

INPUTS = IdentityInputs(image_id="i", engine_args={}, engine_env={}, model="m", weights="InImage", versions={})
HOST = HostTuple(architecture="x86_64", cpu_features=(), kernel="6.18")
KERNEL = b"\x7fELF" + bytes(range(256)) * 64


@pytest.fixture
def context(tmp_path: Path) -> Context:
    config = WorkerConfig(pool="p", namespace="n", revision="r", model=ModelConfig(name="m"))
    settings = read_settings({"PATH": "/bin", ENV_CONFIG: encode(config)})
    state = WorkerState(pod="", namespace="", pool="", revision="", phase=Phase.STARTING)
    paths = RunPaths(tmp_path / "run")
    return Context(replace(settings, paths=paths), Board(state), Stop(), Reaper())


@pytest.fixture
def artifact(context: Context, tmp_path: Path) -> Artifact:
    """Frozen with files before, among and behind the cache; then the run directory is empty again."""
    workspace, paths = Workspace(context), context.settings.paths
    workspace.prepare()
    (paths.tmp / "socket-and-the-like").write_bytes(b"t" * 5000)
    (paths.cache / "triton" / "abc").mkdir(parents=True)
    (paths.cache / "triton" / "abc" / "kernel.so").write_bytes(KERNEL)
    (paths.cache / "same.so").hardlink_to(paths.cache / "triton" / "abc" / "kernel.so")
    (paths.root / "zzz").mkdir()
    (paths.root / "zzz" / "last").write_bytes(b"z" * 100)
    (tmp_path / "store").mkdir()
    staging = Store(tmp_path / "store").stage(INPUTS, HOST)
    directory = staging.dir / PROCESS
    directory.mkdir()
    roots = (paths.tmp, paths.cache, paths.root / "zzz")
    files = carry.collect(roots, directory / process.DATA, lambda: None)
    process.write(
        directory,
        process.Frozen(
            root=400,
            pids=(400,),
            ids=(400,),
            stdout="pipe:[1]",
            stderr="pipe:[2]",
            roots=tuple(map(str, roots)),
            files=tuple(files),
        ),
    )
    published = staging.publish(created_by="a").artifact
    workspace.clean()
    return published


def laid(context: Context) -> list[str]:
    cache = context.settings.paths.cache
    return sorted(str(path.relative_to(cache)) for path in cache.rglob("*") if path.is_file())


def test_the_cache_is_back_and_nothing_else(context: Context, artifact: Artifact) -> None:
    keep_compiled(context, artifact, Reason.CRIU_RESTORE_FAILED)
    paths = context.settings.paths
    assert laid(context) == ["same.so", "triton/abc/kernel.so"]
    kernel = paths.cache / "triton" / "abc" / "kernel.so"
    assert kernel.read_bytes() == KERNEL and kernel.samefile(paths.cache / "same.so")
    assert list(paths.tmp.iterdir()) == []


def test_what_is_damaged_elsewhere_does_not_matter(context: Context, artifact: Artifact) -> None:
    """It is what the thaw failed of, perhaps."""
    (artifact.path / "weights").mkdir()
    (artifact.path / "weights" / "surplus").write_bytes(b"")
    keep_compiled(context, artifact, Reason.FILE_MISSING)
    assert laid(context) == ["same.so", "triton/abc/kernel.so"]


@pytest.mark.parametrize("name", [process.NAME, process.DATA])
def test_a_flipped_bit_in_it_leaves_nothing(context: Context, artifact: Artifact, name: str) -> None:
    path = artifact.path / PROCESS / name
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    keep_compiled(context, artifact, Reason.DIGEST_MISMATCH)
    assert laid(context) == []


def test_storage_that_fails_is_not_asked(context: Context, artifact: Artifact) -> None:
    keep_compiled(context, artifact, Reason.STORE_SLOW)
    assert laid(context) == []
