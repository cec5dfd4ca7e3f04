"""The node cache's directory, for process 1 alone."""

import ctypes
import os
from pathlib import Path

import msgspec

from vernal_worker.store import fs

_MS_NOSUID, _MS_NODEV, _MS_NOEXEC, _MS_REMOUNT, _MS_BIND = 2, 4, 8, 32, 4096  # mount(2)
_MNT_DETACH = 2  # umount2(2)

MEMORY = frozenset({"tmpfs", "ramfs"})
"""File systems whose files are memory, which counts as that of the pod that wrote them."""


class Taken(msgspec.Struct, frozen=True):
    """`root`: the directory, by a way that only processes with all of this one's capabilities have. `kind`: of file
    system."""

    root: Path
    kind: str

    @property
    def tier(self) -> str:
        return "memory" if self.kind in MEMORY else "disk"


def take(path: Path) -> Taken:
    """Take what is mounted at `path` away from there, and make it writable if it was not.

    An engine is root and may write files whatever their mode is; what keeps it from them is that it has neither a path
    to them nor the capability to mount. /proc/PID/fd of a process with more capabilities is closed to it (ptrace(2),
    "Ptrace access mode checking"). CRIU and the helper for GPUs have as many, and read through it.

    Raises:
        OSError: nothing is mounted there, or this process may not do that: then nothing is changed.
    """
    kind, _ = fs.mount(path)
    libc = ctypes.CDLL(None, use_errno=True)
    flags = _MS_REMOUNT | _MS_BIND | _MS_NOSUID | _MS_NODEV | _MS_NOEXEC
    if libc.mount(None, bytes(path), None, ctypes.c_ulong(flags), None) != 0:
        raise _failed("cannot be made writable", path)
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    if libc.umount2(bytes(path), _MNT_DETACH) != 0:
        error = _failed("cannot be taken from where the engine would see it", path)
        os.close(fd)
        raise error
    return Taken(Path(f"/proc/{os.getpid()}/fd/{fd}"), kind)


def _failed(what: str, path: Path) -> OSError:
    number = ctypes.get_errno()
    return OSError(number, f"{what} ({os.strerror(number)})", str(path))
