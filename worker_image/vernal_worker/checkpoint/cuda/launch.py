"""Starting the helper process before anything else: that it can use a GPU takes it longer than all the rest of a start
takes until it is needed. Imports little, for the same reason."""

import os
import subprocess
import sys

from vernal_worker.checkpoint.cuda.visible import VARIABLE, select
from vernal_worker.checkpoint.gpu import gpus

END_SECONDS = 30.0
"""How long a killed helper may take to be gone: the driver gives its GPU memory back before that."""

ENVIRONMENT = {"CUDA_DEVICE_MAX_CONNECTIONS": "1"}
"""Queues to the GPU that a context has (https://docs.nvidia.com/cuda/cuda-c-programming-guide, environment variables).
The helper needs one, and each takes the driver 8 ms to make."""

_CONTROL = "/dev/nvidiactl"
"""Where there is a GPU, there is this device."""

_PROGRAM = f"{__file__.rpartition('/')[0]}/helper.py"

_started: list[subprocess.Popen[bytes]] = []


def begin() -> None:
    """Start it if there is a GPU, with a context on each that is selected: what is thawed here needs them. It ends when
    this process does."""
    if os.access(_CONTROL, os.F_OK):
        _started.append(_start(contexts=True))


def take() -> subprocess.Popen[bytes]:
    """The one that was started, once; else a new one, which takes no room on a GPU until it is told to."""
    return _started.pop() if _started else _start(contexts=False)


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


def _start(*, contexts: bool) -> subprocess.Popen[bytes]:
    """Without `site`, which looks at every package there is: what it has found out for this process is passed on."""
    selection = select(os.environ.get(VARIABLE), gpus().uuids)
    environment = {**os.environ, **ENVIRONMENT, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    if selection.every is not None:
        environment[VARIABLE] = selection.every
    return subprocess.Popen(
        [sys.executable, "-S", "-P", _PROGRAM, str(selection.selected if contexts else 0)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        start_new_session=True,
        env=environment,
    )
