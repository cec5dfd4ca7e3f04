"""Running CRIU: start it, wait for it, stop it without harm, read its log."""

import os
import resource
import select
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

import msgspec
from vernal_contract.reasons import Reason

from vernal_worker.checkpoint import procfs
from vernal_worker.checkpoint.errors import CheckpointError
from vernal_worker.checkpoint.tree import kill, reap
from vernal_worker.parallel import aside

COMMON = (
    "--ext-unix-sk",
    "--tcp-established",
    *("--network-lock", "skip"),  # the tree serves nobody yet, and images need no iptables
    "--file-locks",
    "--link-remap",
    "--manage-cgroups=ignore",  # cgroups are the container runtime's
)
TICK = 0.02
"""How often a deadline and a cancel event are looked at while CRIU runs, in seconds."""

_TAIL = 40
_KILL_TIMEOUT = 20.0

T = TypeVar("T")


def find(criu: str) -> str:
    """The path of the program.

    Raises:
        CheckpointError: `CRIU_MISSING`.
    """
    if (path := which(criu)) is None:
        where = f"PATH is {os.environ.get('PATH', '')!r}"
        raise CheckpointError(Reason.CRIU_MISSING, "criu", f"no program {criu!r} ({where})")
    return path


def which(program: str) -> str | None:
    """The path of a program that this process may run, by its name or path, or None. As `shutil.which`, which a start
    would wait 3 ms to import."""
    places = [""] if os.path.dirname(program) else filter(None, os.get_exec_path())  # noqa: PTH120  # as given
    paths = (os.path.join(place, program) for place in places)  # noqa: PTH118  # the same
    return next((path for path in paths if os.access(path, os.X_OK) and not Path(path).is_dir()), None)


class Patience:
    """How long to go on: for some seconds from now, or until told to stop."""

    def __init__(self, seconds: float, cancel: threading.Event | None, timeout: Reason, given_up: Reason) -> None:
        """`timeout` and `given_up`: the reasons to raise."""
        self._seconds, self._cancel, self._timeout, self._given_up = seconds, cancel, timeout, given_up
        self._deadline = time.monotonic() + seconds

    def check(self) -> None:
        """Raises:
        CheckpointError: time is up, or cancelled.
        """
        if self._cancel is not None and self._cancel.is_set():
            raise CheckpointError(self._given_up, "criu", "cancelled")
        if time.monotonic() > self._deadline:
            raise CheckpointError(self._timeout, "criu", f"not done after {self._seconds:g} s")

    def run(self, work: Callable[[], T]) -> T:
        """Do what touches storage, which may hang, on a thread that is left behind then.

        Raises:
            CheckpointError: as `check`; what `work` raises.
        """
        return aside(work, self.check)

    def read(self, stage: str, work: Callable[[], None]) -> None:
        """Do what waits for nothing but the storage of a thaw's image: so if time is up meanwhile, it was that.

        Raises:
            CheckpointError: as `run`; `STORE_SLOW` of that stage instead of `THAW_TIMEOUT`.
        """
        try:
            self.run(work)
        except CheckpointError as e:
            if e.reason is Reason.THAW_TIMEOUT:
                raise CheckpointError(Reason.STORE_SLOW, stage, f"reading was {e.message}") from e
            raise


class Log(msgspec.Struct, frozen=True):
    """CRIU's log, and what it wrote before it had one."""

    log: Path
    output: Path

    def remove(self) -> None:
        for path in (self.log, self.output):
            path.unlink(missing_ok=True)

    def errors(self) -> str:
        """The lines that say what went wrong; never empty."""
        lines = self._lines()
        # An rlimit that cannot be raised is no reason: CRIU goes on.
        wrong = [line for line in lines if "Error" in line and "rlimit" not in line]
        return "\n".join(wrong[:8] or lines[-3:] or [f"{self.log} is empty"])

    def tail(self) -> str:
        return "\n".join(self._lines()[-_TAIL:])

    def _lines(self) -> list[str]:
        texts = [path.read_text(errors="replace") for path in (self.output, self.log) if path.exists()]
        return [line for text in texts for line in text.splitlines() if line.strip()]


class Criu:
    """One run of CRIU in the background, in a session of its own."""

    def __init__(
        self,
        program: str,
        action: str,
        arguments: Sequence[str],
        *,
        work_dir: Path,
        inherit: Sequence[int] = (),
    ) -> None:
        """Start `criu ACTION ARGUMENT...` with its log in `work_dir`; it keeps the descriptors `inherit`."""
        self.log = Log(work_dir / f"{action}.log", work_dir / f"{action}.out")
        self.log.remove()  # a log of the run before would explain a failure wrongly
        log = ("--work-dir", str(work_dir), "--log-file", self.log.log.name, "-v2")
        try:
            self.pid = os.posix_spawn(
                program,
                [program, action, *arguments, *COMMON, *log],
                os.environ,
                file_actions=[
                    (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
                    (os.POSIX_SPAWN_OPEN, 1, str(self.log.output), os.O_CREAT | os.O_WRONLY | os.O_APPEND, 0o600),
                    (os.POSIX_SPAWN_DUP2, 1, 2),
                    *((os.POSIX_SPAWN_DUP2, fd, fd) for fd in inherit),  # takes close-on-exec off
                ],
                setsid=True,
                setsigmask=[],  # process 1 blocks signals that CRIU may need
            )
        except OSError as e:
            raise CheckpointError(Reason.CRIU_MISSING, "criu", f"cannot run {program}: {e.strerror}") from e
        self._pidfd = os.pidfd_open(self.pid)
        self.returncode: int | None = None

    def wait(self, timeout: float, wake: int = -1) -> int | None:
        """The exit code, or None if CRIU still runs after `timeout` seconds or `wake` became readable."""
        if self.returncode is None:
            poll = select.poll()
            poll.register(self._pidfd, select.POLLIN)
            if wake >= 0:
                poll.register(wake, select.POLLIN)
            if any(fd == self._pidfd for fd, _ in poll.poll(timeout * 1000)):
                _, status = os.waitpid(self.pid, 0)
                self.returncode = os.waitstatus_to_exitcode(status)
                os.close(self._pidfd)
        return self.returncode

    def stop(self, grace: float) -> bool:
        """Make a dump fail, so that CRIU undoes what it did to the tree; returns whether it did.

        A signal would end CRIU at once and leave its code in the processes that it stopped. Instead its
        next write to an image fails (EFBIG, setrlimit(2); SIGXFSZ is ignored in it, as in every process
        that Python starts so), which takes CRIU down its own error path. After `grace` seconds it is
        killed.
        """
        with suppress(ProcessLookupError):
            resource.prlimit(self.pid, resource.RLIMIT_FSIZE, (0, 0))
        if self.wait(grace) is not None:
            return True
        self.kill()
        return False

    def kill(self) -> None:
        """SIGKILL to CRIU and its helpers; returns when they are gone, or when storage that hangs keeps them."""
        if self.returncode is None:
            deadline = time.monotonic() + _KILL_TIMEOUT
            while helpers := {p.pid for p in procfs.scan().values() if p.sid == self.pid and p.state != "Z"}:
                kill(helpers)
                if time.monotonic() > deadline:
                    return
                time.sleep(0.002)
            self.wait(_KILL_TIMEOUT)
            reap(p.pid for p in procfs.scan().values() if p.sid == self.pid)

    def failure(self, reason: Reason) -> CheckpointError:
        """The error for a run that ended with another exit code than 0."""
        code = self.returncode or 0
        how = f"was killed by signal {-code}" if code < 0 else f"failed with exit code {code}"
        lines = self.log.errors()
        return CheckpointError(reason, "criu", f"CRIU {how}:\n{lines}", log_tail=self.log.tail())
