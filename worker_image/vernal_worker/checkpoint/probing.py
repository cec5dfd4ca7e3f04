"""What CRIU has to find out about the kernel, found out before it restores: beside all else that a start does first.

Each CRIU tries some sixty features (`kerndat_init`), for which it makes a network namespace and runs iptables: 0.03 s
and more of a thaw. It keeps what it found in `/run/criu.kdat`, for it holds until the machine boots, but writes that
file only to a tmpfs, which a container's `/run` is not. So it is run here with a tmpfs there that nobody else sees, and
the file is laid where the next CRIU reads it. Without it that CRIU tries for itself. Imports little.
"""

import ctypes
import os
import select
import signal
from contextlib import suppress

_RUN, _FILE = "/run", "criu.kdat"  # criu/kerndat.c
_ANY_FEATURE = "mem_dirty_track"  # whichever is asked for, all are found out
_CLONE_NEWNS, _MS_REC, _MS_PRIVATE, _MS_NOSUID, _MS_NODEV = 0x20000, 1 << 14, 1 << 18, 2, 4  # sched.h, sys/mount.h
_TMPFS_MAGIC = 0x01021994  # linux/magic.h
_SECONDS = 1.0


def begin(criu: str) -> int:
    """Have it done by a process of its own, whose PID this is. Must be called before any thread is started: what others
    hold stays locked in a forked process. `criu`: its path, or name on the PATH."""
    if pid := os.fork():
        return pid
    try:
        os.setsid()  # with all that it starts it can be killed
        probe(criu)
    finally:
        os._exit(0)


def wait(pid: int) -> None:
    """Until that process is done. A CRIU that begins before would do the same once more, so this is no time lost; but
    not for ever: what hangs is killed, for it sees mounts that this process takes away later."""
    try:
        process = os.pidfd_open(pid)
    except ProcessLookupError:  # the reaper was quicker
        return
    try:
        if not select.select([process], [], [], _SECONDS)[0]:
            os.killpg(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    except (ChildProcessError, ProcessLookupError):
        pass  # the same
    finally:
        os.close(process)


def probe(criu: str) -> None:
    """Do it here, and leave this process's mount namespace if need be. Raises: OSError."""
    run = os.open(_RUN, os.O_RDONLY | os.O_DIRECTORY)
    with suppress(FileNotFoundError):  # it may be another kernel's, where somebody has kept it
        os.unlink(_FILE, dir_fd=run)
    if not _is_tmpfs(run):
        _cover()
    check = [criu, "check", "--feature", _ANY_FEATURE]
    nothing = [(os.POSIX_SPAWN_OPEN, fd, os.devnull, os.O_RDWR, 0) for fd in range(3)]
    os.waitpid(os.posix_spawnp(criu, check, os.environ, file_actions=nothing), 0)
    if not _is_tmpfs(run):
        _copy(f"{_RUN}/{_FILE}", run)


def _cover() -> None:
    """A tmpfs at `/run` for this process and its children."""
    libc = ctypes.CDLL(None, use_errno=True)
    flags = ctypes.c_ulong(_MS_NOSUID | _MS_NODEV)
    if (
        libc.unshare(_CLONE_NEWNS) != 0
        or libc.mount(None, b"/", None, ctypes.c_ulong(_MS_REC | _MS_PRIVATE), None) != 0
        or libc.mount(b"vernal", _RUN.encode(), b"tmpfs", flags, b"size=1m") != 0
    ):
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code), _RUN)


def _copy(file: str, directory: int) -> None:
    """All of it or nothing."""
    with open(file, "rb") as found:
        data = found.read()
    new = f"{_FILE}.{os.getpid()}"
    written = os.open(new, os.O_CREAT | os.O_TRUNC | os.O_WRONLY, 0o600, dir_fd=directory)
    try:
        if os.write(written, data) == len(data):
            os.rename(new, _FILE, src_dir_fd=directory, dst_dir_fd=directory)
    finally:
        os.close(written)
        with suppress(FileNotFoundError):
            os.unlink(new, dir_fd=directory)


def _is_tmpfs(fd: int) -> bool:
    found = (ctypes.c_long * 32)()  # struct statfs, which begins with f_type
    return bool(ctypes.CDLL(None).fstatfs(fd, found) == 0 and found[0] == _TMPFS_MAGIC)
