"""Starts operators in a few milliseconds: everything is imported once, then each operator is a fork of this process.

An operator process is the real command line (`vernal_operator.main.main`); killing it is killing a process. Commands
are JSON lines on stdin, answers are lines on stdout.
"""

import json
import mmap
import os
import signal
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any


class Operator:
    """A running operator process."""

    def __init__(self, pid: int, log: Path) -> None:
        self.pid, self.log = pid, log

    @property
    def alive(self) -> bool:
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return False
        return True

    def kill(self, number: int = signal.SIGKILL) -> None:
        try:
            os.kill(self.pid, number)
        except ProcessLookupError:
            pass


class Clock:
    """What an operator's `time.time` is off by, in seconds; also while it runs."""

    def __init__(self, file: Path, seconds: float = 0.0) -> None:
        self.file = file
        file.write_bytes(_OFFSET.pack(seconds))
        self._map = _mapped(file)

    def set(self, seconds: float) -> None:
        _OFFSET.pack_into(self._map, 0, seconds)


_OFFSET = struct.Struct("d")


def _mapped(file: Path) -> mmap.mmap:
    with file.open("r+b") as opened:
        return mmap.mmap(opened.fileno(), _OFFSET.size)


class Zygote:
    """The process that operators are forked from. Thread-safe."""

    def __init__(self, packages: tuple[Path, ...] = ()) -> None:
        """`packages`: directories to import the operator from, before all others."""
        paths = [*map(str, packages), *(p for p in sys.path if p)]
        self._lock = threading.Lock()  # of a question and its answer, or one case gets the process of another
        self._process = subprocess.Popen(
            [sys.executable, __file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | {"PYTHONPATH": os.pathsep.join(paths)},
        )

    def start(
        self,
        args: list[str],
        kubeconfig: Path,
        log: Path,
        clock: Clock | None = None,
        env: Mapping[str, str] = MappingProxyType({}),
    ) -> Operator:
        assert self._process.stdin is not None and self._process.stdout is not None
        command = {
            "args": args,
            "env": {"KUBECONFIG": str(kubeconfig), **env},
            "log": str(log),
            "clock": str(clock.file) if clock else None,
        }
        with self._lock:
            self._process.stdin.write(json.dumps(command) + "\n")
            self._process.stdin.flush()
            return Operator(int(self._process.stdout.readline()), log)

    def close(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(timeout=300)


def _child(command: dict[str, Any]) -> None:
    from vernal_operator.main import main

    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    log = os.open(command["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.environ.update(command["env"])
    if command["clock"] is not None:
        _skew(_mapped(Path(command["clock"])))
    code = 1
    try:
        code = main(command["args"])
    except SystemExit as error:
        code = int(error.code or 0)
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _skew(offset: mmap.mmap) -> None:
    """A wall clock that is wrong. `datetime.now`, by which the operator only writes and never reckons, stays right."""
    right = time.time
    time.time = lambda: right() + float(_OFFSET.unpack_from(offset)[0])


def _serve() -> None:
    import vernal_operator.main  # noqa: F401

    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the kernel reaps
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    for line in sys.stdin:
        command = json.loads(line)
        pid = os.fork()
        if pid == 0:
            _child(command)
        print(pid, flush=True)


if __name__ == "__main__":
    _serve()
