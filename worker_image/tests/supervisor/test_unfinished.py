"""A container that was killed as a whole in a thaw or a freeze: the pod's next one does not do the same again."""

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from vernal_contract import names
from vernal_contract.config import CheckpointConfig, CheckpointPolicy, ModelConfig, WorkerConfig, encode
from vernal_contract.reasons import Reason
from vernal_contract.state import Phase, WorkerState
from vernal_worker.store.store import Store
from vernal_worker.supervisor import unfinished
from vernal_worker.supervisor.board import Board
from vernal_worker.supervisor.choose import Cold, Thaw
from vernal_worker.supervisor.context import Context, read_settings
from vernal_worker.supervisor.reaper import Reaper
from vernal_worker.supervisor.steps import Steps
from vernal_worker.supervisor.stop import Stop


class Killed(BaseException):
    """SIGKILL to the whole container: nothing of process 1 runs after it."""


def killed(*_: Any, **__: Any) -> Any:
    raise Killed


Container = Callable[[], Steps]


@pytest.fixture
def container(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Container:
    """Of one pod, one after the other, with a checkpoint in the store that fits; its thaw kills them."""
    monkeypatch.setattr("vernal_worker.checkpoint.doctor.supported", lambda criu: (True, ""))
    monkeypatch.setattr(names, "PATH_RUN", str(tmp_path / "run"))  # an emptyDir: it outlives the container
    monkeypatch.setattr("vernal_worker.supervisor.recovery.keep_compiled", lambda *a: None)
    for name in ("model", "store"):
        (tmp_path / name).mkdir()
    (tmp_path / "model/config.json").write_text("{}")
    config = WorkerConfig(
        pool="p",
        namespace="n",
        revision="r",
        model=ModelConfig(name="m", path=str(tmp_path / "model")),
        checkpoint=CheckpointConfig(policy=CheckpointPolicy.AUTO, store_path=str(tmp_path / "store")),
    )
    variables = {"PATH": "/bin", names.ENV_CONFIG: encode(config), names.ENV_NODE_NAME: "node"}

    def container() -> Steps:
        state = WorkerState(pod="", namespace="", pool="", revision="", phase=Phase.STARTING)
        made = Steps(Context(read_settings(variables), Board(state), Stop(), Reaper()))
        made.prepare()
        monkeypatch.setattr(made._thawing, "run", killed)
        return made

    first = container()
    assert isinstance(first.choose(), Cold)
    staging = Store(tmp_path / "store").stage(*first.found)
    (staging.dir / "oracle.json").write_text("{}")
    staging.publish(created_by="t")
    return container


def is_killed(steps: Steps) -> None:
    choice = steps.choose()
    assert isinstance(choice, Thaw)
    with pytest.raises(Killed):
        steps.thaw(choice, None)


def test_a_thaw_that_kills_its_container_is_not_begun_again_for_ever(container: Container, tmp_path: Path) -> None:
    is_killed(container())
    second = container()
    choice = second.choose()
    assert isinstance(choice, Cold) and choice.reason is Reason.CONTAINER_KILLED and choice.message
    (failure,) = Store(tmp_path / "store").failures(*second.found, _generation(tmp_path))
    assert failure.reason is Reason.CONTAINER_KILLED
    assert isinstance(container().choose(), Thaw), "later it is tried again"


def _generation(tmp_path: Path) -> str:
    (current,) = (tmp_path / "store").glob("artifacts/*/*/current")
    return current.resolve().name


def test_one_that_came_through_says_that_none_was_killed(container: Container, tmp_path: Path) -> None:
    """Whatever way: else another one's end, weeks later, is taken for the thaw's doing."""
    is_killed(container())
    (tmp_path / "store").rename(tmp_path / "away")
    second = container()
    assert isinstance(second.choose(), Cold), "the storage is gone for a moment"
    second.came_through()
    (tmp_path / "away").rename(tmp_path / "store")
    assert isinstance(container().choose(), Thaw)


@pytest.mark.parametrize("ends", [None, ValueError], ids=["well", "with an error"])
def test_what_comes_to_an_end_leaves_no_mark(tmp_path: Path, ends: type[Exception] | None) -> None:
    path = tmp_path / "freezing"
    with suppress(ValueError), unfinished.marked(path, "what"):
        assert path.read_text() == "what"
        if ends is not None:
            raise ends
    assert unfinished.taken(path) is None


def test_a_mark_is_taken_once(tmp_path: Path) -> None:
    with suppress(Killed), unfinished.marked(tmp_path / "freezing", "what"):
        killed()
    assert [unfinished.taken(tmp_path / "freezing") for _ in range(2)] == ["what", None]


def test_without_room_for_a_mark_work_goes_on(tmp_path: Path) -> None:
    with unfinished.marked(tmp_path / "nowhere" / "freezing", "what"):
        done = True
    assert done
