"""Starts operators in a few milliseconds: everything is imported once, then each operator is a fork of this process.

An operator process is the real command line (`vernal_operator.main.main`); killing it is killing a process. Commands
are JSON lines on stdin, answers are lines on stdout.
"""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
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


class Zygote:
    """The process that operators are forked from. Thread-safe as long as `start` is called under a lock."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, __file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | {"PYTHONPATH": os.pathsep.join(p for p in sys.path if p)},
        )

    def start(self, args: list[str], kubeconfig: Path, log: Path) -> Operator:
        assert self._process.stdin is not None and self._process.stdout is not None
        command = {"args": args, "env": {"KUBECONFIG": str(kubeconfig)}, "log": str(log)}
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
    code = 1
    try:
        code = main(command["args"])
    except SystemExit as error:
        code = int(error.code or 0)
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


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
