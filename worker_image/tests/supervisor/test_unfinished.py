"""A container that was killed as a whole in a thaw or a freeze: the pod's next one does not do the same again."""

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


def test_a_thaw_that_kills_its_container_is_not_begun_again_for_ever(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
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
        return made

    first = container()
    assert isinstance(first.choose(), Cold)
    staging = Store(tmp_path / "store").stage(*first.found)
    (staging.dir / "oracle.json").write_text("{}")
    generation = staging.publish(created_by="t").artifact.generation

    chosen: list[Any] = []
    for _ in range(4):  # the kubelet's restarts
        steps = container()
        monkeypatch.setattr(steps._thawing, "run", killed)
        choice: Any = steps.choose()
        chosen.append(choice)
        if not isinstance(choice, Thaw):
            break
        with suppress(Killed):
            steps.thaw(choice, None)
    assert [type(each) for each in chosen] == [Thaw, Cold], [type(each).__name__ for each in chosen]
    assert chosen[-1].reason is Reason.CONTAINER_KILLED and chosen[-1].message
    (failure,) = Store(tmp_path / "store").failures(*first.found, generation)
    assert failure.reason is Reason.CONTAINER_KILLED
    assert isinstance(container().choose(), Thaw), "later it is tried again"


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
