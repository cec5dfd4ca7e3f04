"""The helper's process, on any machine: it ends when it is told to, and says what it lacks."""

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from patience import GUARD_SECONDS, until
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
    until("the helper to end", lambda: gone(helper) or _state(helper) == "Z")


def test_who_gives_it_long_commands_does_not_wait_for_the_driver() -> None:
    """Which is still being initialised here, for ever."""
    steps = "commands.bindings = lambda: None; commands.run(threading.Event(), threading.current_thread(), 0)"
    code = f"import threading; from vernal_worker.checkpoint.cuda import commands; {steps}"
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE) as helper:
        assert helper.stdin is not None
        try:
            sent = threading.Thread(target=helper.stdin.write, args=[b"x" * (4 << 20) + b"\n"], daemon=True)
            sent.start()
            sent.join(GUARD_SECONDS)
            assert not sent.is_alive()
        finally:
            helper.kill()


def _state(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


@without_gpu
def test_without_a_gpu_every_call_says_so() -> None:
    for ask in (lambda helper: helper.gpus(), lambda helper: (helper.ask_room((1,)), helper.room())):
        helper = CudaHelper()
        with pytest.raises(CheckpointError) as error:
            ask(helper)
        assert error.value.reason is Reason.CUDA_RESTORE_FAILED
        helper.close()
