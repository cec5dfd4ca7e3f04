"""A process tree that belongs to the caller: launched or thawed, it is handled alike."""

import os
import select
import signal
import time
from collections.abc import Iterable
from contextlib import suppress

from vernal_contract.reasons import Reason

from vernal_worker.checkpoint import procfs
from vernal_worker.checkpoint.errors import CheckpointError

UNKNOWN_EXIT = 255
"""Exit code of a root that somebody else reaped."""


class ProcessTree:
    """The root's PID, the read ends of its stdout and stderr pipes (owned by this object) and a pidfd of
    the root.

    The root is a child of the calling process, and `poll` and `wait` reap it. If somebody else was quicker
    (who reaps orphans as process 1 must should leave it alone for a while) its exit code is `UNKNOWN_EXIT`.
    """

    def __init__(self, pid: int, stdout: int, stderr: int, pidfd: int) -> None:
        self.pid, self.stdout, self.stderr, self.pidfd = pid, stdout, stderr, pidfd
        self.returncode: int | None = None
        self._gone = False

    def members(self) -> list[int]:
        """PIDs of the root, its descendants, and whatever else is in the root's session, zombies excepted."""
        return [p.pid for p in self.processes().values() if p.state not in "ZX"]

    def poll(self) -> int | None:
        """The root's exit code as in `subprocess` (negative: killed by that signal), or None while it runs.

        `pidfd` becomes readable when the root exits, so that an event loop need not ask.
        """
        return self.wait(0)

    def wait(self, timeout: float | None = None) -> int | None:
        """Like `poll`, after waiting up to `timeout` seconds (None: for ever)."""
        if self.returncode is None and readable(self.pidfd, timeout):
            try:
                _, status = os.waitpid(self.pid, 0)
                self.returncode = os.waitstatus_to_exitcode(status)
            except ChildProcessError:
                self.returncode = UNKNOWN_EXIT
        return self.returncode

    def kill(self, timeout: float = 10.0) -> None:
        """SIGKILL every member, reap, and return when every one of their PIDs is gone from the PID namespace.

        Safe to call again and on a dead tree. The pipes stay open: read what is left, then `close`.

        Raises:
            CheckpointError: (`INTERNAL`) a PID is still there after `timeout`; the message names it and its
                state.
        """
        deadline = time.monotonic() + timeout
        waiting: set[int] = set()
        while True:
            found = set(self.processes())
            kill(found)
            self.poll()  # not by reap(): that would lose the exit code
            waiting = still_there(waiting | found)
            waiting = reap(waiting - {self.pid}) | (waiting & {self.pid})
            if not found and not waiting:  # one more look after the last kill: it may have forked just before
                self._gone = True
                return
            if time.monotonic() > deadline:
                raise CheckpointError(
                    Reason.INTERNAL, "kill", f"there {timeout:g} s after SIGKILL: {procfs.describe(waiting)}"
                )
            time.sleep(0.002)

    def close(self) -> None:
        """Close the pipes and the pidfd. Does not touch the processes."""
        for fd in (self.stdout, self.stderr, self.pidfd):
            if fd >= 0:
                os.close(fd)
        self.stdout = self.stderr = self.pidfd = -1

    def processes(self) -> dict[int, procfs.Process]:
        """The root, its descendants, and whatever else is in the root's session, zombies included, by PID."""
        if self._gone:  # the numbers may belong to a later tree by now
            return {}
        every = procfs.scan()
        # A child whose parent has died hangs under process 1; the session still gives it away.
        root = {self.pid} if self.returncode is None else set()
        return _with_descendants(every, {p.pid for p in every.values() if p.sid == self.pid} | root)

    def descendants(self) -> set[int]:
        """PIDs of the root and its descendants only."""
        return set(_with_descendants(procfs.scan(), {self.pid}))


def _with_descendants(every: dict[int, procfs.Process], inside: set[int]) -> dict[int, procfs.Process]:
    while more := {p.pid for p in every.values() if p.ppid in inside} - inside:
        inside = inside | more
    return {pid: every[pid] for pid in sorted(inside & every.keys())}


def readable(fd: int, timeout: float | None) -> bool:
    """Wait up to `timeout` seconds (None: for ever) until there is something to read from `fd`."""
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    return bool(poll.poll(None if timeout is None else timeout * 1000))


def kill(pids: Iterable[int]) -> None:
    """SIGKILL to each that exists."""
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def still_there(pids: Iterable[int]) -> set[int]:
    """Those of `pids` that exist, zombies included."""
    return {pid for pid in pids if procfs.exists(pid)}


def reap(pids: Iterable[int]) -> set[int]:
    """Reap those of `pids` that are dead children of the caller; returns the others that still exist."""
    pids = set(pids)
    for pid in pids:
        with suppress(ChildProcessError):
            os.waitpid(pid, os.WNOHANG)
    return still_there(pids)
