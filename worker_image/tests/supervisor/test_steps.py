"""What a start does where what the engine loads cannot be read."""

from pathlib import Path
from typing import Any

import pytest
from vernal_contract.config import CheckpointConfig, CheckpointPolicy, ModelConfig, WorkerConfig, encode
from vernal_contract.names import ENV_CONFIG
from vernal_contract.reasons import Reason
from vernal_contract.state import Phase, WorkerState
from vernal_worker.supervisor import choose
from vernal_worker.supervisor.board import Board
from vernal_worker.supervisor.choose import Cold, GiveUp
from vernal_worker.supervisor.context import Context, read_settings
from vernal_worker.supervisor.launching import StartError
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

    def make(policy: CheckpointPolicy) -> Steps:
        config = WorkerConfig(
            pool="p",
            namespace="n",
            revision="r",
            model=ModelConfig(name="m", path=str(tmp_path / "model")),
            checkpoint=CheckpointConfig(policy=policy, store_path=str(tmp_path / "store")),
        )
        variables = {"PATH": "/bin", "PYTHONPATH": str(tmp_path / "modules"), ENV_CONFIG: encode(config)}
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
