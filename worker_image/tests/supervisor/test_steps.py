"""What a start does where what the engine loads cannot be read."""

from pathlib import Path
from typing import Any

import pytest
from vernal_contract.config import (
    CheckpointConfig,
    CheckpointPolicy,
    ModelConfig,
    ObjectStoreConfig,
    WorkerConfig,
    encode,
)
from vernal_contract.names import ENV_CONFIG, ENV_OBJECT_STORE
from vernal_contract.reasons import NEXT_STEP, Reason
from vernal_contract.state import Phase, WorkerState
from vernal_worker.store.errors import StoreError
from vernal_worker.supervisor import choose, stores
from vernal_worker.supervisor.board import Board
from vernal_worker.supervisor.choose import Cold, GiveUp
from vernal_worker.supervisor.context import Context, StartError, read_settings
from vernal_worker.supervisor.reaper import Reaper
from vernal_worker.supervisor.steps import Steps
from vernal_worker.supervisor.stop import Stop


@pytest.fixture
def steps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Of a worker with a model and a directory of modules, on a host that can freeze."""
    monkeypatch.setattr("vernal_worker.checkpoint.doctor.supported", lambda criu: (True, ""))
    for name in ("model", "modules", "store"):
        (tmp_path / name).mkdir()
    (tmp_path / "model/config.json").write_text("{}")

    def make(policy: CheckpointPolicy, **checkpoint: Any) -> Steps:
        config = WorkerConfig(
            pool="p",
            namespace="n",
            revision="r",
            model=ModelConfig(name="m", path=str(tmp_path / "model")),
            checkpoint=CheckpointConfig(policy=policy, store_path=str(tmp_path / "store"), **checkpoint),
        )
        keys = {f"{ENV_OBJECT_STORE}{name}": "planted" for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")}
        variables = {**keys, "PATH": "/bin", "PYTHONPATH": str(tmp_path / "modules"), ENV_CONFIG: encode(config)}
        state = WorkerState(pod="", namespace="", pool="", revision="", phase=Phase.STARTING)
        return Steps(Context(read_settings(variables), Board(state), Stop(), Reaper()))

    return make


def test_without_a_file_beside_the_model_it_starts_cold_and_says_why(steps: Any, tmp_path: Path) -> None:
    """vLLM may do without it."""
    (tmp_path / "modules/gone.py").symlink_to("/nonexistent")
    choice = steps(CheckpointPolicy.AUTO).choose()
    assert isinstance(choice, Cold) and not choice.freeze and choice.reason is Reason.CONTENT_UNREADABLE
    assert "env.PYTHONPATH[0]" in choice.message and "gone.py" in choice.message
    assert isinstance(steps(CheckpointPolicy.REQUIRED).choose(), GiveUp)


def test_without_the_model_it_does_not_start(steps: Any, tmp_path: Path) -> None:
    (tmp_path / "model/gone.safetensors").symlink_to("/nonexistent")
    with pytest.raises(StartError) as error:
        steps(CheckpointPolicy.AUTO).choose()
    assert error.value.reason is Reason.CONFIG_INVALID


def test_unreadable() -> None:
    assert choose.unreadable(CheckpointPolicy.AUTO, "x") == Cold(Reason.CONTENT_UNREADABLE, "x", freeze=False)
    assert choose.unreadable(CheckpointPolicy.REQUIRED, "x") == GiveUp(Reason.CONTENT_UNREADABLE, "x")


def test_without_its_bucket_it_starts_cold_and_says_why(
    steps: Any, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """And makes no checkpoint, which nobody would get."""
    monkeypatch.setattr(stores, "_RETRY_SECONDS", 0.0)
    bucket = ObjectStoreConfig(url="s3://models/vernal", endpoint="http://127.0.0.1:9", region="r")
    made = steps(CheckpointPolicy.AUTO, object_store=bucket)
    choice = made.choose()
    assert isinstance(choice, Cold) and not choice.freeze and choice.reason is Reason.OBJECT_STORE_UNAVAILABLE
    assert "s3://models/vernal" in choice.message and NEXT_STEP[choice.reason]
    assert isinstance(steps(CheckpointPolicy.REQUIRED, object_store=bucket).choose(), GiveUp)
    assert isinstance(steps(CheckpointPolicy.DISABLED, object_store=bucket).choose(), Cold)
    said = choice.message + repr(made._board.snapshot()) + "".join(capfd.readouterr())
    assert "planted" not in said


def test_a_transfer_is_told_and_given_up_when_it_cannot_be_there_in_time(capfd: pytest.CaptureFixture[str]) -> None:
    now = [100.0]
    timings: dict[str, float] = {}
    told = stores.Transfers(lambda size: 60.0, timings.__setitem__, lambda: now[0])
    for seconds, done in ((0.0, 0), (4.0, 40), (6.0, 60), (30.0, 600)):
        now[0] = 100.0 + seconds
        told("pull", done, 1000)
    assert timings == {"pull": 30.0}
    lines = capfd.readouterr().out.splitlines()
    assert [line.split("event=")[1].split()[0] for line in lines] == ["pull_began", "pull_progress", "pull_progress"]
    now[0] = 155.0
    with pytest.raises(StoreError) as error:
        told("pull", 601, 1000)
    assert error.value.reason is Reason.STORE_SLOW
    now[0] = 1000.0
    told("push", 0, 1000)
    now[0] = 2000.0
    told("push", 1, 1000)  # the freeze has a time-out of its own
    assert timings["push"] == 1000.0
