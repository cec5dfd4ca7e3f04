"""What the engine's keeper refuses before it does anything."""

import re
import socket
from pathlib import Path

from vernal_contract import config, names, reasons
from vernal_contract.reasons import Reason
from vernal_contract.state import Phase, WorkerState
from vernal_worker.client import settings
from vernal_worker.client.host import EngineFailedError
from vernal_worker.client.keeper import Keeper
from vernal_worker.client.messages import Freeze, Lines, Refused
from vernal_worker.client.next_steps import NEXT_STEP
from vernal_worker.supervisor.board import Board
from vernal_worker.supervisor.context import Context, read_settings
from vernal_worker.supervisor.reaper import Reaper
from vernal_worker.supervisor.stop import Stop


def asked_to_freeze(tmp_path: Path, connector: str) -> Refused:
    """The answer of a keeper that has no engine yet."""
    (tmp_path / "model").mkdir()
    (tmp_path / "model/config.json").write_text("{}")
    arguments = {
        "model": str(tmp_path / "model"),
        "kv_transfer_config": {"kv_connector": connector, "kv_role": "kv_both"},
    }
    worker = settings.worker_config(arguments, config.CheckpointConfig())
    state = WorkerState(pod="", namespace="", pool="", revision="", phase=Phase.STARTING)
    told = read_settings({names.ENV_CONFIG: config.encode(worker)})
    ours, theirs = socket.socketpair()
    with ours, theirs:
        keeper = Keeper(Lines(ours), Context(told, Board(state), Stop(), Reaper()))
        answer = keeper._freeze(Freeze(str(tmp_path / "store"), ""))
    assert isinstance(answer, Refused)
    return answer


def test_an_engine_that_cannot_be_frozen_is_not_touched(tmp_path: Path) -> None:
    answer = asked_to_freeze(tmp_path, "OffloadingConnector")
    assert answer.reason == Reason.HOST_UNSUPPORTED and "kv_connector is OffloadingConnector" in answer.message
    assert not (tmp_path / "store").exists()


def test_one_that_can_is_not_refused_for_that(tmp_path: Path) -> None:
    assert "no engine" in asked_to_freeze(tmp_path, "VernalSharedStorageConnector").message


def test_what_to_do_next_is_for_a_program() -> None:
    """Where there is no Kubernetes. As many failures have a next step as a worker's have, but for a bucket's."""
    assert NEXT_STEP.keys() == reasons.NEXT_STEP.keys() - {reasons.Reason.OBJECT_STORE_UNAVAILABLE}
    for reason in NEXT_STEP:
        shown = str(EngineFailedError(reason, "why"))
        assert shown.startswith(f"{reason}: why (") and NEXT_STEP[reason] in shown
        words = re.findall(r"\w+", shown)
        assert not {"kubectl", "pod", "claim", "spec", "kubelet", "container", "vck", "image", "node"} & set(words), (
            shown
        )
