"""The program's side of the engine's processes: namespaces, keeper, and the certainty that they end."""

import contextlib
import os
import select
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Mapping
from pathlib import Path

from vernal_contract import config, names
from vernal_contract.reasons import Reason
from vernal_contract.state import WorkerState

from vernal_worker.client.messages import Answer, Done, End, Freeze, How, Lines, Refused, Start
from vernal_worker.client.next_steps import NEXT_STEP
from vernal_worker.supervisor.software import ENV_CRIU

_NAMESPACES = ("--pid", "--fork", "--kill-child", "--mount-proc", "--mount", "--net", "--ipc")
_LONGEST_SOCKET = 107
"""Bytes of a socket's path (unix(7))."""
_EXIT_SECONDS = 15.0
"""For vLLM to stop in order, and then for the keeper to clean up."""


class EngineFailedError(RuntimeError):
    """The engine could not be started, thawed or frozen; `reason` is one of `vernal_contract.reasons.Reason`."""

    def __init__(self, reason: str, message: str) -> None:
        step = NEXT_STEP.get(Reason(reason)) if reason in set(Reason) else None
        super().__init__(f"{reason}: {message}" + (f" ({step})" if step else ""))
        self.reason = reason
        self.message = message


class EngineHost:
    """Owns the keeper, and with it every process of the engine, until `close`.

    Needs root (CAP_SYS_ADMIN): it makes namespaces, and freezing needs it as well.
    """

    def __init__(self, worker: config.WorkerConfig, environment: Mapping[str, str], criu: str, output: int) -> None:
        """Start the keeper, not yet an engine. What the engine writes goes to the descriptor `output`.

        Raises:
            EngineFailedError: `HOST_UNSUPPORTED`.
        """
        if os.geteuid() != 0:
            raise EngineFailedError(Reason.HOST_UNSUPPORTED, "namespaces and CRIU need root")
        self._directory = Path(tempfile.mkdtemp(prefix="vernal-"))  # 0700
        self.api = str(self._directory / "api.sock")
        if len(os.fsencode(self.api)) > _LONGEST_SOCKET:
            self._directory.rmdir()
            raise EngineFailedError(
                Reason.HOST_UNSUPPORTED, f"TMPDIR is too long for a socket's path: {self._directory.parent}"
            )
        self._lock = threading.Lock()
        ours, theirs = socket.socketpair()
        program = os.pidfd_open(os.getpid())
        passed = (theirs.fileno(), program)
        try:
            self._process = subprocess.Popen(
                [
                    *("unshare", *_NAMESPACES, sys.executable, "-m", "vernal_worker.client.keeper"),
                    *(str(passed[0]), str(passed[1]), str(self._directory)),
                ],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                pass_fds=passed,
                env={**environment, names.ENV_CONFIG: config.encode(worker), ENV_CRIU: criu},
                start_new_session=True,  # Ctrl-C at the terminal is the program's
            )
        except OSError as error:
            ours.close()
            shutil.rmtree(self._directory, ignore_errors=True)
            raise EngineFailedError(Reason.HOST_UNSUPPORTED, f"cannot run unshare(1): {error}") from error
        finally:
            theirs.close()
            os.close(program)
        self._lines = Lines(ours)
        self.pidfd = os.pidfd_open(self._process.pid)
        """Readable once the keeper, and with it the engine, is gone, or unshare(1) was killed, which ends them."""
        self._keeper = -1

    def start(self, how: How, meanwhile: Callable[[], None] = lambda: None) -> WorkerState:
        """Blocks until there is an engine; minutes if it starts cold. `meanwhile` is called while it starts.

        Raises: EngineFailedError; what `meanwhile` raises.
        """
        return self._ask(Start(how, self.api), meanwhile)

    def freeze(self, store: str | os.PathLike[str]) -> WorkerState:
        """Blocks until the engine, which nobody is connected to, is frozen and serves again.

        Raises: EngineFailedError: it was not frozen; it serves again all the same, unless `alive` says otherwise.
        """
        return self._ask(Freeze(str(Path(store).resolve()), self.api))

    @property
    def alive(self) -> bool:
        return self._process.poll() is None

    def close(self, timeout: float | None = None) -> None:
        """Let the engine stop in order for up to `timeout` seconds, then `end`. Not in order is what ends while it
        starts or is frozen. Again is fine; from any thread."""
        seconds = _EXIT_SECONDS if timeout is None else timeout
        if seconds > 0 and self._lock.acquire(blocking=False):
            try:
                with contextlib.suppress(OSError, ValueError, subprocess.TimeoutExpired):  # it is gone, or takes long
                    self._lines.send(End(seconds))
                    self._process.wait(seconds)
            finally:
                self._lock.release()
        self.end()

    def give_up(self) -> None:
        """End what `start` waits for: it raises EngineFailedError. From any thread; `end` is still to be called."""
        self._lines.close()

    def end(self) -> None:
        """End every process of the engine, and remove every file. Again is fine; from any thread."""
        self._know_keeper()
        self._lines.close()
        try:
            self._process.wait(_EXIT_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()  # unshare takes the keeper along, and the kernel the rest
            self._process.wait()
        keeper, self._keeper = self._keeper, -1
        if keeper >= 0:  # an unshare(1) that was killed, by whomever, is gone before them
            (poll := select.poll()).register(keeper, select.POLLIN)
            poll.poll(_EXIT_SECONDS * 1000)
            os.close(keeper)
        if self.pidfd >= 0:
            os.close(self.pidfd)
            self.pidfd = -1
        shutil.rmtree(self._directory, ignore_errors=True)

    def _know_keeper(self) -> None:
        """Process 1 of the namespace: it is gone when all others in it are. While unshare(1) begins there is none."""
        if self._keeper < 0 and self._process.returncode is None:  # else its number may be another's
            with contextlib.suppress(OSError, ValueError):
                (keeper,) = Path(f"/proc/{self._process.pid}/task/{self._process.pid}/children").read_text().split()
                self._keeper = os.pidfd_open(int(keeper))

    def _ask(self, request: Start | Freeze, meanwhile: Callable[[], None] = lambda: None) -> WorkerState:
        with self._lock:
            answer: Answer | None = None
            with contextlib.suppress(OSError):
                self._lines.send(request)
            meanwhile()
            with contextlib.suppress(OSError, ValueError):  # ValueError: closed meanwhile
                answer = self._lines.answer()
            if answer is not None:
                self._know_keeper()
        match answer:
            case Done(state):
                return state
            case Refused(reason, message):
                raise EngineFailedError(reason, message)
        raise EngineFailedError(Reason.ENGINE_DIED, "the engine's keeper is gone; its last lines say why")
