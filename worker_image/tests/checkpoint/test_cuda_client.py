"""How the supervisor listens to the CUDA helper: no GPU needed, the other end writes what a helper would."""

import subprocess
import sys
from collections.abc import Callable, Iterator

import msgspec
import pytest
from vernal_contract.reasons import Reason
from vernal_worker.checkpoint.cuda import launch, messages
from vernal_worker.checkpoint.cuda.client import CudaHelper, OnGpu
from vernal_worker.checkpoint.errors import CheckpointError

Listening = Callable[..., CudaHelper]

READY = messages.Ready(gpus=("aa" * 16,), seconds=0.1)
SAY = "import sys; sys.stdout.write(sys.argv[1]); sys.stdout.flush(); sys.stdin.read()"


@pytest.fixture
def listening(monkeypatch: pytest.MonkeyPatch) -> Iterator[Listening]:
    """To a process that says all answers at once, and then nothing until its stdin ends."""
    helpers: list[CudaHelper] = []

    def start(*answers: messages.AnyAnswer) -> CudaHelper:
        lines = b"".join(msgspec.json.encode(answer) + b"\n" for answer in answers).decode()
        process = subprocess.Popen(
            [sys.executable, "-c", SAY, lines], stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True
        )
        monkeypatch.setattr(launch, "take", lambda: process)
        helpers.append(CudaHelper())
        return helpers[-1]

    yield start
    for helper in helpers:
        helper.close()


def test_answers_that_come_at_once_are_told_apart(listening: Listening) -> None:
    """A question that is asked before the GPUs are there is answered in the same moment."""
    done = messages.Done(seconds={"restore": 1.0}, ended={"restore": 2.0})
    helper = listening(READY, messages.Room(free=(7,), total=(8,)), done)
    helper.ask_room((5,))
    assert helper.room().free == (7,)
    assert helper.gpus() == READY.gpus
    timings = helper.wait_loaded(60)
    assert (timings, timings.ended) == ({"restore": 1.0}, {"restore": 2.0})


def test_what_is_restored_is_forgotten_with_the_helper_that_does_it(listening: Listening) -> None:
    """The next one, after a thaw that failed, has not begun with anything: room is looked for again."""
    on = OnGpu(pids=(10, 11), holders=(11,), gpus=READY.gpus)
    helper = listening(READY, messages.Done(seconds={"restore": 1.0}, ended={"restore": 2.0}))
    assert not helper.restoring
    helper.begin_restore(on)
    assert helper.restoring
    assert helper.restore(on, 60) == {"restore": 1.0} and not helper.restoring
    helper.begin_restore(on)
    assert not listening(READY).restoring


def test_a_failure_says_what_it_is_about(listening: Listening) -> None:
    helper = listening(READY, messages.Failed(message="rank-0-0.bin", cause=messages.Cause.DIGEST))
    with pytest.raises(CheckpointError) as raised:
        helper.wait_loaded(60)
    assert (raised.value.reason, raised.value.stage) == (Reason.DIGEST_MISMATCH, "weights")
