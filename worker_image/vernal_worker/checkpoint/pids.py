"""Where the kernel takes the next PID from."""

import errno
import os
from pathlib import Path

from vernal_contract.reasons import Reason

from vernal_worker.checkpoint import procfs
from vernal_worker.checkpoint.errors import CheckpointError

LAST_PID = Path("/proc/sys/kernel/ns_last_pid")
PID_MAX = Path("/proc/sys/kernel/pid_max")
PID_FLOOR = 10_000
"""PIDs of a tree start here; the supervisor and its helpers live below, so the numbers are free in every pod."""

HELPERS_FROM = 300
"""Below it the kernel gives out nothing after the numbers have wrapped round once (RESERVED_PIDS)."""

# Of every architecture (asm-generic/unistd.h); see fsopen(2), fsconfig(2), fsmount(2).
_SYS_FSOPEN, _SYS_FSCONFIG, _SYS_FSMOUNT = 430, 431, 432
_FSOPEN_CLOEXEC, _FSCONFIG_CMD_CREATE, _FSMOUNT_CLOEXEC = 1, 6, 1


def last() -> int:
    """The PID given out last in this PID namespace; 0 if the kernel does not know."""
    return max(0, int(LAST_PID.read_text()))  # -1 after a tree was thawed: PIDs that are asked for do not count


def set_last(pid: int) -> None:
    """Make the next process or thread of this PID namespace get `pid` + 1, or the next free number after it.

    Raises:
        CheckpointError: `HOST_UNSUPPORTED`, stage `pids`.
    """
    try:
        try:
            fd = os.open(LAST_PID, os.O_WRONLY)
        except OSError as e:
            if e.errno not in (errno.EROFS, errno.EACCES):
                raise
            fd = _open_in_fresh_proc("sys/kernel/ns_last_pid")
        try:
            os.write(fd, str(pid).encode())
        finally:
            os.close(fd)
    except OSError as e:
        raise CheckpointError(
            Reason.HOST_UNSUPPORTED,
            "pids",
            f"cannot set {LAST_PID} to {pid}: {e.strerror}. It takes CAP_SYS_ADMIN or CAP_CHECKPOINT_RESTORE",
        ) from e


def keep_helpers_below(floor: int) -> None:
    """Make helper processes get PIDs below `floor` even after a tree ran here, so that none takes one of
    its PIDs."""
    if last() >= floor - 1:
        set_last(HELPERS_FROM)


def taken(ids: set[int]) -> list[int]:
    """Those of `ids` that a process, thread, process group or session has now."""
    # /proc/<tid> can be looked up though it is not listed; a dead leader's group or session shows up in its
    # members.
    found = {i for i in ids if procfs.exists(i)}
    for p in procfs.scan().values():
        found |= ids & {p.pgid, p.sid}
    return sorted(found)


def _open_in_fresh_proc(name: str) -> int:
    """Open a file for writing in a proc mount of our own that is attached nowhere: container runtimes mount
    /proc/sys read-only."""
    import ctypes  # takes milliseconds, and most hosts do without

    libc = ctypes.CDLL(None, use_errno=True)

    def call(number: int, *args: object) -> int:
        result: int = libc.syscall(number, *args)
        if result < 0:
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
        return result

    context = call(_SYS_FSOPEN, b"proc", _FSOPEN_CLOEXEC)
    try:
        call(_SYS_FSCONFIG, context, _FSCONFIG_CMD_CREATE, None, None, 0)
        mount = call(_SYS_FSMOUNT, context, _FSMOUNT_CLOEXEC, 0)
    finally:
        os.close(context)
    try:
        return os.open(name, os.O_WRONLY, dir_fd=mount)
    finally:
        os.close(mount)
