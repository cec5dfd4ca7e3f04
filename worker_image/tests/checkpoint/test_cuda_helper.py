"""The helper's process, on any machine: it ends when it is told to, and says what it lacks."""

import os
import signal
import time
from pathlib import Path

import pytest
from vernal_contract.reasons import Reason
from vernal_worker.checkpoint.cuda.client import CudaHelper
from vernal_worker.checkpoint.errors import CheckpointError
from vernal_worker.checkpoint.gpu import gpus

without_gpu = pytest.mark.skipif(gpus().count > 0, reason="this machine has a GPU")


def gone(pid: int) -> bool:
    return not Path(f"/proc/{pid}").exists()


def test_it_is_gone_when_close_returns_whatever_it_does() -> None:
    """Not only told to go: the driver gives its memory back when it has ended."""
    helper = CudaHelper()
    os.kill(helper.pid, signal.SIGSTOP)
    assert helper.close() and gone(helper.pid)
    assert helper.close(), "twice is fine"


def test_it_does_not_outlive_who_started_it() -> None:
    r, w = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.write(w, str(CudaHelper().pid).encode())
        os._exit(0)
    os.waitpid(pid, 0)
    helper = int(os.read(r, 20))
    deadline = time.monotonic() + 120
    while not gone(helper) and Path(f"/proc/{helper}/stat").read_text().rpartition(")")[2].split()[0] != "Z":
        assert time.monotonic() < deadline
        time.sleep(0.05)


@without_gpu
def test_without_a_gpu_every_call_says_so() -> None:
    for ask in (lambda helper: helper.gpus(), lambda helper: (helper.ask_room((1,)), helper.room())):
        helper = CudaHelper()
        with pytest.raises(CheckpointError) as error:
            ask(helper)
        assert error.value.reason is Reason.CUDA_RESTORE_FAILED
        helper.close()
