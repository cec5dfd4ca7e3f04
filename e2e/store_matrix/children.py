"""Processes of their own for tasks, each of which stops before calls on the store that it is told, or dies there."""

import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Collection, Mapping
from contextlib import suppress
from pathlib import Path
from threading import current_thread
from types import TracebackType
from typing import Any, Self

from store_matrix import tasks

HANG_SECONDS = 600.0
"""After so long without an answer a task hangs. The code's own bounds add up to under a minute here."""

_CALLS = frozenset(
    {
        "open", "os.chmod", "os.link", "os.listdir", "os.mkdir", "os.remove", "os.rename", "os.rmdir", "os.scandir",
        "os.symlink",
    }
)  # fmt: skip


class HangError(Exception):
    """A task did not answer in `HANG_SECONDS`."""


class DiedError(Exception):
    """A task ended without an answer."""


class Child:
    """A task in a process of its own. Use as a context manager: at its end the process is gone.

    Args:
        task: of `tasks.TASKS`.
        hold: numbers of calls on the store before which it stops until `go` (PEP 578 audit events and fsync(2), in
            whatever thread but the heartbeat's, whose time is its own).
        die: it kills itself there.
        environment: it is a new program with these variables, too.
    """

    def __init__(
        self,
        task: str,
        root: str,
        *,
        hold: Collection[int] = (),
        die: int = 0,
        environment: Mapping[str, str] | None = None,
        **arguments: Any,
    ) -> None:
        order = {"task": task, "arguments": {"root": root, **arguments}, "hold": list(hold), "die": die}
        self._from, said = os.pipe()
        told, self._to = os.pipe()
        if environment is None:
            self.pid = os.fork()
            if self.pid == 0:
                os.close(self._from)
                os.close(self._to)
                try:
                    _obey(order, said, told)
                finally:
                    os._exit(99)
        else:
            command = [sys.executable, "-m", "store_matrix.children", json.dumps(order | {"said": said, "told": told})]
            self.pid = subprocess.Popen(command, pass_fds=(said, told), env={**os.environ, **environment}).pid
        os.close(said)
        os.close(told)
        self._buffer, self._stopped, self._ended = b"", False, False
        self._answer: dict[str, Any] | None = None

    def ready(self) -> bool:
        """Whether there is something to hear."""
        return b"\n" in self._buffer or bool(select.select([self._from], [], [], 0)[0])

    def stop(self) -> str:
        """Wait until it stops, and where that is; it may have come to its end without. Raises: HangError, DiedError."""
        said = self._hear()
        self._stopped = "stopped" in said
        if self._stopped:
            return f"before call {said['stopped']}: {said['call']}"
        self._answer = said
        return "after its end"

    def go(self) -> None:
        """Let it go on from where it has stopped."""
        if self._stopped:
            self._stopped = False
            os.write(self._to, b"x")

    @property
    def ended(self) -> bool:
        """Whether it has come to its end without a stop, as far as is known."""
        return self._answer is not None

    def answer(self) -> dict[str, Any]:
        """The task's, without another stop. Raises: HangError, DiedError."""
        self.go()
        while self._answer is None:
            self.stop()
            self.go()
        return self._answer

    def settled(self) -> None:
        """After the answer: wait until no thread of it does anything any more. Raises: HangError, DiedError."""
        os.write(self._to, b"x")
        self._hear()

    def _hear(self) -> dict[str, Any]:
        deadline = time.monotonic() + HANG_SECONDS
        while b"\n" not in self._buffer:
            if not select.select([self._from], [], [], max(0.0, deadline - time.monotonic()))[0]:
                raise HangError
            if not (data := os.read(self._from, 65536)):
                raise DiedError
            self._buffer += data
        line, _, self._buffer = self._buffer.partition(b"\n")
        said: dict[str, Any] = json.loads(line)
        return said

    def waits(self) -> bool:
        """Whether one of its threads waits in the kernel for a disk or a lock there (state D of proc(5))."""
        for task in Path(f"/proc/{self.pid}/task").iterdir():
            with suppress(FileNotFoundError, ProcessLookupError):  # it has ended
                if (task / "stat").read_text().rpartition(")")[2].split()[0] == "D":
                    return True
        return False

    def end(self) -> None:
        """kill -9, and wait until it is gone."""
        if not self._ended:
            self._ended = True
            with suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGKILL)
            with suppress(ChildProcessError):
                os.waitpid(self.pid, 0)
            os.close(self._from)
            os.close(self._to)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self.end()


def run(task: str, root: str, environment: Mapping[str, str] | None = None, **arguments: Any) -> dict[str, Any]:
    """A task from its beginning to its end. Raises: HangError, DiedError."""
    with Child(task, root, environment=environment, **arguments) as child:
        answer = child.answer()
        child.settled()
        return answer


class _Steps:
    """Counts calls on the store, stops or dies before some."""

    def __init__(self, root: str, hold: Collection[int], die: int, said: int, told: int) -> None:
        self._root, self._hold, self._die, self._said, self._told = root, frozenset(hold), die, said, told
        self.count = 0
        self._fsync = os.fsync

    def watch(self) -> None:
        sys.addaudithook(self._hook)  # fsync has no audit event
        os.fsync = self._counted_fsync

    def _hook(self, event: str, arguments: tuple[Any, ...]) -> None:
        if event in _CALLS and arguments and str(arguments[0]).startswith(self._root):
            self._step(f"{event.removeprefix('os.')} {str(arguments[0])[len(self._root) + 1 :]}")

    def _counted_fsync(self, fd: Any) -> None:
        number = fd if isinstance(fd, int) else fd.fileno()
        self._step(f"fsync {str(Path(f'/proc/self/fd/{number}').readlink())[len(self._root) + 1 :]}")
        self._fsync(fd)

    def _step(self, what: str) -> None:
        if current_thread().name == "heartbeat":
            return
        self.count += 1
        if self.count == self._die:
            os.kill(os.getpid(), signal.SIGKILL)
        if self.count in self._hold:
            _say(self._said, {"stopped": self.count, "call": what})
            os.read(self._told, 1)


def _say(said: int, message: Mapping[str, Any]) -> None:
    os.write(said, json.dumps(message).encode() + b"\n")


def _obey(order: dict[str, Any], said: int, told: int) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # who started it ends it
    steps = _Steps(order["arguments"]["root"], order["hold"], order["die"], said, told)
    steps.watch()
    if order["task"] not in tasks.TASKS:
        import store_matrix.bucket_tasks  # noqa: F401  # obstore starts threads, which no fork survives
    try:
        answer = tasks.TASKS[order["task"]](**order["arguments"])
    except BaseException as error:
        answer = {"outcome": "broken", "state": "broken", "reason": f"{type(error).__name__}: {error}"}
    _say(said, {**answer, "steps": steps.count})
    os.read(told, 1)
    tasks.settle()
    _say(said, {})
    os._exit(0)


if __name__ == "__main__":
    _order = json.loads(sys.argv[1])
    _obey(_order, _order["said"], _order["told"])
