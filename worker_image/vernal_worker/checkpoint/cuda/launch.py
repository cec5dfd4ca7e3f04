"""Starting the helper process before anything else: that it can use a GPU takes it longer than all the rest of a start
takes until it is needed. Imports little, for the same reason."""

import subprocess
import sys
from pathlib import Path

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


def end(process: subprocess.Popen[bytes]) -> None:
    """End a helper; twice is fine."""
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            pipe.close()
    process.kill()
    process.wait()


def _start() -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-m", "vernal_worker.checkpoint.cuda.helper"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        start_new_session=True,
    )
