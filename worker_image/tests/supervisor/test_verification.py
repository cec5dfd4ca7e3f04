"""What CRIU is about to see is verified before the rest."""

import threading
from pathlib import Path

import pytest
from vernal_contract.config import Verify
from vernal_contract.identity import HostTuple, IdentityInputs
from vernal_contract.reasons import Reason
from vernal_contract.state import Phase, WorkerState
from vernal_worker.store.artifact import Artifact
from vernal_worker.store.errors import StoreError
from vernal_worker.store.store import Store
from vernal_worker.supervisor.board import Board
from vernal_worker.supervisor.verification import Verification

INPUTS = IdentityInputs(image_id="i", engine_args={}, engine_env={}, model="m", weights="InImage", versions={})
HOST = HostTuple(architecture="x86_64", cpu_features=(), kernel="6.18")
FIRST, REST = "process/criu/core-1.img", "process/files.bin"


@pytest.fixture
def artifact(tmp_path: Path) -> Artifact:
    staging = Store(tmp_path).stage(INPUTS, HOST)
    for name in (FIRST, REST):
        (staging.dir / name).parent.mkdir(parents=True, exist_ok=True)
        (staging.dir / name).write_bytes(b"as written")
    return staging.publish(created_by="test").artifact


def verify(artifact: Artifact) -> Verification:
    board = Board(WorkerState(pod="", namespace="", pool="", revision="", phase=Phase.STARTING))
    never = threading.Event()
    return Verification(artifact, Verify.FULL, board, except_content=[], first=[FIRST], timeout=600, cancel=never)


def test_all_is_well(artifact: Artifact) -> None:
    verification = verify(artifact)
    verification.wait_first()
    verification.finish()
    assert not verification.give_up.is_set()


@pytest.mark.parametrize("name", [FIRST, REST])
def test_what_is_wrong_is_told_when_it_is_asked_for(artifact: Artifact, name: str) -> None:
    (artifact.path / name).write_bytes(b"exchanged!")
    verification = verify(artifact)
    if name == FIRST:
        with pytest.raises(StoreError) as early:
            verification.wait_first()
        assert early.value.reason is Reason.DIGEST_MISMATCH and FIRST in early.value.message
    with pytest.raises(StoreError) as error:
        verification.finish()
    assert error.value.reason is Reason.DIGEST_MISMATCH and name in error.value.message
    assert verification.give_up.is_set()
