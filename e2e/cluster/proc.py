"""Long-lived processes, found again by a record on disk that a reused pid cannot fool."""

from __future__ import annotations

import hashlib
import json
import os
import select
import signal
import subprocess
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from cluster.errors import ClusterError

#: Set for every process that belongs to a state directory, and inherited by containerd's shims, which leave
#: our process tree: a process with this variable is ours, whoever its parent is now.
OWNER_VARIABLE = "VERNAL_CLUSTER_OWNER"


@dataclass(frozen=True)
class Record:
    """One started process. `start_time` is in clock ticks since boot: field 22 of /proc/PID/stat, proc(5)."""

    name: str
    pid: int
    start_time: int
    boot_id: str
    argv: list[str]
    inputs: str  # digest of the files that it read at its start
    started_at: float  # seconds since the epoch


def boot_id() -> str:
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def start_time(pid: int) -> int | None:
    """When `pid` started, in clock ticks since boot; None if there is no such process or it is a zombie."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    # The command name, in parentheses, may hold spaces and parentheses itself.
    fields = stat.rpartition(")")[2].split()
    return None if fields[0] in "ZX" else int(fields[19])


def alive(record: Record) -> bool:
    """Whether the very process of the record still runs: same pid, same start, same boot."""
    return record.boot_id == boot_id() and start_time(record.pid) == record.start_time


class Processes:
    """The processes of one directory: `run/NAME.json` records each, `logs/NAME.log` is what it prints."""

    def __init__(self, run: Path, logs: Path, owner: str) -> None:
        self._run = run
        self._logs = logs
        self._owner = owner

    def log(self, name: str) -> Path:
        return self._logs / f"{name}.log"

    def record(self, name: str) -> Record | None:
        """The record of `name`, or None if it was never started, was stopped, or the record is unreadable."""
        try:
            return Record(**json.loads((self._run / f"{name}.json").read_text()))
        except (FileNotFoundError, ValueError, TypeError):
            return None

    def running(self, name: str) -> Record | None:
        record = self.record(name)
        return record if record and alive(record) else None

    def ensure(
        self, name: str, argv: Sequence[str], env: Mapping[str, str] | None = None, reads: Sequence[Path] = ()
    ) -> bool:
        """Make `name` run with `argv`, and return True if this call started it.

        One that was started with other arguments, or other contents of what it `reads`, is replaced.
        """
        inputs = hashlib.sha256(b"\0".join(path.read_bytes() for path in reads)).hexdigest()
        current = self.running(name)
        if current and current.argv == list(argv) and current.inputs == inputs:
            return False
        if current:
            self.stop([name])
        self._start(name, argv, env or {}, inputs)
        return True

    def _start(self, name: str, argv: Sequence[str], env: Mapping[str, str], inputs: str) -> None:
        self._run.mkdir(parents=True, exist_ok=True)
        self._logs.mkdir(parents=True, exist_ok=True)
        log = self.log(name)
        if log.exists():
            log.replace(log.with_suffix(".log.1"))
        with log.open("ab") as out:
            process = subprocess.Popen(
                argv, stdin=subprocess.DEVNULL, stdout=out, stderr=out, start_new_session=True, cwd="/",
                env={**os.environ, **env, OWNER_VARIABLE: self._owner},
            )  # fmt: skip
        started = start_time(process.pid)
        if started is None:
            raise ClusterError(f"{name} ended at once: {self.why(name)}")
        record = Record(name, process.pid, started, boot_id(), list(argv), inputs, time.time())
        path = self._run / f"{name}.json"
        path.with_suffix(".tmp").write_text(json.dumps(asdict(record)))
        path.with_suffix(".tmp").replace(path)

    def stop(self, names: Iterable[str], patience: float = 10) -> None:
        """Ask all of `names` to end, wait up to `patience` seconds, end the rest with SIGKILL."""
        names = list(names)
        end([record for name in names if (record := self.running(name))], patience)
        for name in names:
            (self._run / f"{name}.json").unlink(missing_ok=True)

    def kill(self, name: str) -> None:
        """End `name` with SIGKILL, without any chance to clean up, and wait until it is gone."""
        if record := self.running(name):
            end([record], 0)
        (self._run / f"{name}.json").unlink(missing_ok=True)

    def check(self, name: str) -> None:
        """Raise ClusterError with the end of its log if `name` does not run."""
        if not self.running(name):
            raise ClusterError(f"{name} ended: {self.why(name)}")

    def why(self, name: str, lines: int = 15) -> str:
        """The end of the log of `name`, and where the rest is."""
        log = self.log(name)
        tail = log.read_text(errors="replace").splitlines()[-lines:] if log.exists() else []
        return "\n".join([f"the end of {log}:", *(f"    {line[:400]}" for line in tail)])


def end(records: Sequence[Record], patience: float) -> None:
    """End processes: SIGTERM, `patience` seconds for all of them together, SIGKILL.

    Signals go through a pidfd that is checked against the record after it was opened, so that a pid which was
    reused meanwhile is never hit.
    """
    fds = [fd for record in records if (fd := _open(record)) is not None]
    try:
        if patience > 0:
            _signal(fds, signal.SIGTERM)
            _wait(fds, patience)
        _signal(fds, signal.SIGKILL)
        _wait(fds, 120)
    finally:
        for fd in fds:
            os.close(fd)
    for record in records:
        _reap(record.pid)


def _open(record: Record) -> int | None:
    try:
        fd = os.pidfd_open(record.pid)
    except ProcessLookupError:
        return None
    if alive(record):
        return fd
    os.close(fd)
    return None


def _signal(fds: Iterable[int], number: signal.Signals) -> None:
    for fd in fds:
        try:
            signal.pidfd_send_signal(fd, number)
        except ProcessLookupError:
            pass  # it is gone already, which is what was wanted


def _wait(fds: Iterable[int], seconds: float) -> None:
    poll = select.poll()
    left = set(fds)
    for fd in left:
        poll.register(fd, select.POLLIN)
    deadline = time.monotonic() + seconds
    while left and (remaining := deadline - time.monotonic()) > 0:
        for fd, _ in poll.poll(remaining * 1000):
            poll.unregister(fd)
            left.discard(fd)


def _reap(pid: int) -> None:
    try:
        os.waitpid(pid, os.WNOHANG)
    except ChildProcessError:
        pass  # started by another run of this program


def owned(owner: str) -> Iterator[Record]:
    """Every process on the machine that was started for the state directory `owner`, shims included."""
    return (record for record in all_processes() if owner_of(record.pid) == owner)


def owner_of(pid: int) -> str | None:
    """The state directory that a process was started for, or None if it is not ours."""
    try:
        environ = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    except OSError:
        return None
    mark = f"{OWNER_VARIABLE}=".encode()
    return next((entry.removeprefix(mark).decode() for entry in environ if entry.startswith(mark)), None)


def all_processes() -> Iterator[Record]:
    """Every process that runs now; zombies do not."""
    pids = [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit()]
    return (record for pid in pids if (record := inspect(pid)))


def inspect(pid: int) -> Record | None:
    """A record of a process that runs now, whoever started it."""
    started = start_time(pid)
    if started is None:
        return None
    try:
        argv = Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace").split("\0")[:-1]
    except (FileNotFoundError, ProcessLookupError):
        return None
    return Record(Path(argv[0]).name if argv else "", pid, started, boot_id(), argv, "", 0.0)
