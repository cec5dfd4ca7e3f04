"""Starting the helper process before anything else: that it can use a GPU takes it longer than all the rest of a start
takes until it is needed. Imports little, for the same reason."""

import os
import subprocess
import sys
from pathlib import Path

from vernal_worker.checkpoint.cuda.visible import VARIABLE, select
from vernal_worker.checkpoint.gpu import gpus

END_SECONDS = 30.0
"""How long a killed helper may take to be gone: the driver gives its GPU memory back before that."""

_CONTROL = Path("/dev/nvidiactl")
"""Where there is a GPU, there is this device."""

_started: list[subprocess.Popen[bytes]] = []


def begin() -> None:
    """Start it if there is a GPU. It ends when this process does."""
    if _CONTROL.exists():
        _started.append(_start())


def take() -> subprocess.Popen[bytes]:
    """The one that was started, once; else a new one."""
    return _started.pop() if _started else _start()


def discard() -> None:
    """End it, if it was started and nobody took it."""
    while _started:
        end(take())


def end(process: subprocess.Popen[bytes]) -> bool:
    """End a helper, and with it all GPU memory that it holds; twice is fine. False: the driver keeps it."""
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            pipe.close()
    process.kill()
    try:
        process.wait(END_SECONDS)
    except subprocess.TimeoutExpired:
        return False
    return True


def _start() -> subprocess.Popen[bytes]:
    every = select(os.environ.get(VARIABLE), gpus().uuids).every
    return subprocess.Popen(
        [sys.executable, "-m", "vernal_worker.checkpoint.cuda.helper"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        start_new_session=True,
        env=os.environ if every is None else os.environ | {VARIABLE: every},
    )
