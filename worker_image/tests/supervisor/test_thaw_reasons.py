"""What a failed thaw is called."""

import errno
import shutil
from pathlib import Path

import msgspec
import pytest
from vernal_contract.config import ModelConfig, WorkerConfig, encode
from vernal_contract.identity import HostTuple, IdentityInputs
from vernal_contract.names import ENV_CONFIG
from vernal_contract.reasons import Reason
from vernal_contract.state import Phase, WorkerState
from vernal_worker.store.artifact import Artifact
from vernal_worker.store.store import Store
from vernal_worker.supervisor.board import Board
from vernal_worker.supervisor.context import Context, read_settings
from vernal_worker.supervisor.reaper import Reaper
from vernal_worker.supervisor.stop import Stop
from vernal_worker.supervisor.thawing import Thawing, _as_failure
from vernal_worker.supervisor.workspace import Workspace

INPUTS = IdentityInputs(image_id="i", engine_args={}, engine_env={}, model="m", weights="InImage", versions={})
HOST = HostTuple(architecture="x86_64", cpu_features=(), kernel="6.18")


@pytest.mark.parametrize(
    "error, reason",
    [
        (FileNotFoundError(errno.ENOENT, "No such file", "/store/oracle.json"), Reason.FILE_MISSING),
        (OSError(errno.EIO, "Input/output error", "/store/oracle.json"), Reason.STORE_UNAVAILABLE),
        (msgspec.DecodeError("JSON is malformed"), Reason.MANIFEST_INVALID),
    ],
)
@pytest.mark.parametrize("stage", ["cuda", "canary"])
def test_an_artifact_that_went_away_is_not_called_wrong(error: Exception, reason: Reason, stage: str) -> None:
    found = _as_failure(stage, error, ())
    assert found is not None and (found.stage, found.reason) == (stage, reason)
    if isinstance(error, FileNotFoundError):
        assert "oracle.json" in found.message


@pytest.fixture
def thawing() -> Thawing:
    config = WorkerConfig(pool="p", namespace="n", revision="r", model=ModelConfig(name="m"))
    settings = read_settings({"PATH": "/bin", ENV_CONFIG: encode(config)})
    state = WorkerState(pod="", namespace="", pool="", revision="", phase=Phase.STARTING)
    context = Context(settings, Board(state), Stop(), Reaper())
    return Thawing(context, Workspace(context))


@pytest.fixture
def artifact(tmp_path: Path) -> Artifact:
    staging = Store(tmp_path).stage(INPUTS, HOST)
    (staging.dir / "oracle.json").write_bytes(b"{}")
    return staging.publish(created_by="a").artifact


OTHER_NAMES = [
    Reason.CRIU_RESTORE_FAILED,
    Reason.SHM_FAILED,
    Reason.STORE_UNAVAILABLE,  # ESTALE, or what the GPU helper could not open
    Reason.CUDA_RESTORE_FAILED,
    Reason.THAW_TIMEOUT,
    Reason.ENGINE_UNRESPONSIVE,
]


@pytest.mark.parametrize("reason", OTHER_NAMES)
def test_an_artifact_that_was_deleted_is_missing_whatever_came_upon_it(
    thawing: Thawing, artifact: Artifact, reason: Reason
) -> None:
    assert thawing._missing(artifact, reason) is None
    (artifact.path / "oracle.json").unlink()
    gone = thawing._missing(artifact, reason)
    shutil.rmtree(artifact.path)
    all_gone = thawing._missing(artifact, reason)
    for found in (gone, all_gone):
        assert found is not None and (found.stage, found.reason) == ("verify", Reason.FILE_MISSING)


@pytest.mark.parametrize("reason", [Reason.STORE_SLOW, Reason.DIGEST_MISMATCH, Reason.GPU_MEMORY_INSUFFICIENT])
def test_what_speaks_of_something_else_is_not_looked_into(thawing: Thawing, artifact: Artifact, reason: Reason) -> None:
    """Least of all where the storage does not answer."""
    shutil.rmtree(artifact.path)
    assert thawing._missing(artifact, reason) is None
