"""A FUSE file system that passes everything on to a directory, but for what a file tells it to do wrong:

python -m store_matrix.fault_fs DIRECTORY MOUNTPOINT CONTROL

CONTROL is a directory. `faults.json` in it: `hang`, `eio` and `erofs` are lists of names of operations, `clock` is
what files' times are off by (seconds). Whenever an operation begins to hang, `hung` is made there.

It needs mfusepy, in an environment of its own (constraints/store-matrix.txt), and otherwise the standard library alone.
"""

import errno
import json
import os
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import mfusepy

_TIMES = ("st_atime", "st_mtime", "st_ctime")
_SAME = ("st_mode", "st_nlink", "st_uid", "st_gid", "st_size", "st_ino", "st_dev", "st_blocks")
_STATFS = (
    "f_bavail", "f_bfree", "f_blocks", "f_bsize", "f_favail", "f_ffree", "f_files", "f_flag", "f_frsize", "f_namemax"
)  # fmt: skip


class FaultFs(mfusepy.Operations):  # type: ignore[misc]  # mfusepy is not in the environment that is checked
    use_ns = True

    def __init__(self, directory: str, control: Path) -> None:
        self._directory, self._control = directory, control

    def _at(self, operation: str, path: str) -> Path:
        """The file behind `path`, once the fault lets the operation go on."""
        while operation in (faults := self._faults()).get("hang", ()):
            (self._control / "hung").touch()
            time.sleep(0.02)
        for name, number in (("eio", errno.EIO), ("erofs", errno.EROFS)):
            if operation in faults.get(name, ()):
                raise mfusepy.FuseOSError(number)
        return Path(self._directory + path)

    def _faults(self) -> dict[str, Any]:
        faults: dict[str, Any] = json.loads((self._control / "faults.json").read_text())
        return faults

    def getattr(self, path: str, fh: int | None = None) -> dict[str, int]:
        place = self._at("getattr", path)
        info = place.lstat() if fh is None else os.fstat(fh)
        off = int(self._faults().get("clock", 0)) * 10**9
        times = {name: getattr(info, f"{name}_ns") + off for name in _TIMES}
        return {name: getattr(info, name) for name in _SAME} | times

    def readdir(self, path: str, fh: int) -> list[tuple[str, dict[str, int], int]]:
        place, found = self._at("readdir", path), []
        for name in (".", "..", *(entry.name for entry in place.iterdir())):
            with suppress(FileNotFoundError):
                info = (place / name).lstat()
                found.append((name, {"st_mode": info.st_mode, "st_ino": info.st_ino}, 0))
        return found

    def readlink(self, path: str) -> str:
        return str(self._at("readlink", path).readlink())

    def create(self, path: str, mode: int, fi: int) -> int:
        return os.open(self._at("create", path), fi | os.O_CREAT | os.O_CLOEXEC, mode)

    def open(self, path: str, flags: int) -> int:
        return os.open(self._at("open", path), flags | os.O_CLOEXEC)

    def read(self, path: str, size: int, offset: int, fh: int) -> bytes:
        self._at("read", path)
        return os.pread(fh, size, offset)

    def write(self, path: str, data: bytes, offset: int, fh: int) -> int:
        self._at("write", path)
        return os.pwrite(fh, data, offset)

    def flush(self, path: str, fh: int) -> None:
        self._at("flush", path)

    def fsync(self, path: str, datasync: int, fh: int) -> None:
        self._at("fsync", path)
        os.fsync(fh)

    def fsyncdir(self, path: str, datasync: int, fh: int) -> None:
        directory = os.open(self._at("fsync", path), os.O_RDONLY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)

    def release(self, path: str, fh: int) -> None:
        os.close(fh)

    def mkdir(self, path: str, mode: int) -> None:
        self._at("mkdir", path).mkdir(mode)

    def rmdir(self, path: str) -> None:
        self._at("rmdir", path).rmdir()

    def unlink(self, path: str) -> None:
        self._at("unlink", path).unlink()

    def rename(self, old: str, new: str) -> None:
        self._at("rename", old).rename(self._directory + new)

    def link(self, target: str, source: str) -> None:
        """`target` is the new name."""
        os.link(self._directory + source, self._at("link", target), follow_symlinks=False)

    def symlink(self, target: str, source: str) -> None:
        """`target` is the new name."""
        self._at("symlink", target).symlink_to(source)

    def chmod(self, path: str, mode: int) -> None:
        self._at("chmod", path).chmod(mode)

    def chown(self, path: str, uid: int, gid: int) -> None:
        os.chown(self._at("chown", path), uid, gid, follow_symlinks=False)

    def truncate(self, path: str, length: int, fh: int | None = None) -> None:
        os.truncate(self._at("truncate", path), length)

    def utimens(self, path: str, times: tuple[int, int] | None = None) -> None:
        os.utime(self._at("utimens", path), ns=times or (time.time_ns(), time.time_ns()), follow_symlinks=False)

    def statfs(self, path: str) -> dict[str, int]:
        found = os.statvfs(self._at("statfs", path))
        return {name: getattr(found, name) for name in _STATFS}


def main() -> None:
    directory, mountpoint, control = sys.argv[1:]
    mfusepy.FUSE(
        FaultFs(directory, Path(control)), mountpoint, foreground=True, use_ino=True, hard_remove=True,
        attr_timeout=0, entry_timeout=0, negative_timeout=0, fsname="vernal-fault",
    )  # fmt: skip


if __name__ == "__main__":
    main()
