"""The helper's process, on any machine: it ends when it is told to, and says what it lacks."""

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from queue import Queue
from types import SimpleNamespace

import pytest
from patience import GUARD_SECONDS, until
from vernal_contract.reasons import Reason
from vernal_worker.checkpoint.cuda import helper as helper_program
from vernal_worker.checkpoint.cuda import preparing
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
    imports = "from vernal_worker.checkpoint.cuda import commands, preparing"
    held = "commands.bindings = lambda: None; preparing._driver = signal.pause"
    code = f"import signal; {imports}; {held}; commands.run(preparing.Preparation(0))"
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, bufsize=0) as helper:
        assert helper.stdin is not None
        sent: Queue[int] = Queue()
        fd, long = helper.stdin.fileno(), b"x" * (4 << 20) + b"\n"
        try:
            threading.Thread(target=lambda: sent.put(os.write(fd, long)), daemon=True).start()
            assert sent.get(timeout=GUARD_SECONDS) == len(long)
            assert helper.poll() is None
        finally:
            helper.kill()


@without_gpu
def test_it_ends_in_order_when_there_is_no_driver() -> None:
    """With its stdin still open."""
    program = [sys.executable, "-S", "-P", helper_program.__file__, "1"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    pipe = subprocess.PIPE
    with subprocess.Popen(program, stdin=pipe, stdout=pipe, stderr=pipe, env=environment) as helper:
        assert helper.wait(GUARD_SECONDS) == 0
        assert helper.stdout is not None and helper.stderr is not None
        assert b'"failed"' in helper.stdout.read() and helper.stderr.read() == b""


def test_contexts_that_nobody_needs_go(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of three that are being made the first is waited for, not the others."""
    calls: list[tuple[str, int]] = []
    others = threading.Event()

    def retain(_: object, device: int) -> None:
        assert device == 0 or others.wait(GUARD_SECONDS)
        calls.append(("retain", device))

    def release(device: int) -> None:
        calls.append(("release", device))

    driver = SimpleNamespace(
        cuInit=lambda _: None, cuDevicePrimaryCtxRetain=retain, cuDevicePrimaryCtxRelease_v2=release
    )
    monkeypatch.setattr(preparing, "_driver", lambda: driver)
    some = preparing.Preparation(3)
    assert some.keep(1) == 1 and calls == [("retain", 0)]
    others.set()
    until("the others to go", lambda: {("release", 1), ("release", 2)} <= set(calls))
    assert ("release", 0) not in calls
    assert preparing.Preparation(2).keep(0) == 0
    assert calls[-4:].count(("release", 0)) == calls[-4:].count(("release", 1)) == 1, "it has waited"


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
