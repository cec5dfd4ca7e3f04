"""Durable and private files and directories."""

import errno
import os
import uuid
from contextlib import suppress
from pathlib import Path

CLOCK = ".clock-"
NEW_LINK = ".link-"
"""How a pointer is named that is about to be swapped in."""


def unique() -> str:
    return uuid.uuid4().hex


def make_directory(path: Path, below: Path) -> None:
    """Make `path` and what is missing between it and `below` (which must exist), 0700 whatever the umask."""
    for directory in [*reversed(path.parents), path]:
        if directory != below and directory.is_relative_to(below):
            try:
                directory.mkdir()
            except FileExistsError:
                continue
            directory.chmod(0o700)
            sync(directory.parent)


def write_new(path: Path, data: bytes) -> None:
    """Make a file that was not there, 0600 whatever the umask, with its content on stable storage.

    Raises:
        FileExistsError: it is there.
        OSError: it cannot be written, and is not there: a full file system still takes names.
    """
    fd = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o600)
    try:
        with open(fd, "wb") as f:
            os.fchmod(fd, 0o600)
            f.write(data)
            f.flush()
            os.fsync(fd)
    except OSError:
        with suppress(OSError):
            path.unlink()
        raise


def sync(path: Path) -> None:
    """Bring a file's data, or a directory's entries, to stable storage."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def swap_link(link: Path, target: str) -> None:
    """Make the symbolic link `link` point to `target`; a reader sees the old one or the new one."""
    new = link.with_name(NEW_LINK + unique())
    new.symlink_to(target)
    new.rename(link)
    sync(link.parent)


def remove_tree(path: Path) -> None:
    """Remove a directory with everything in it, as far as it is there and can be removed."""
    import shutil  # here: it brings what packs archives, and no thaw removes a directory

    shutil.rmtree(path, ignore_errors=True)


def newest(path: Path) -> float:
    """The latest modification time at and below `path`, by the storage's clock."""
    times = [path.lstat().st_mtime]
    for directory, directories, files in os.walk(path):
        for name in (*directories, *files):
            with suppress(FileNotFoundError):
                times.append(Path(directory, name).lstat().st_mtime)
    return max(times)


def link(file: Path, name: Path) -> None:
    """Give `file` another name.

    Raises:
        OSError: `ENOTSUP` and what to do if the file system has no hard links.
    """
    try:
        os.link(file, name)
    except OSError as error:
        if error.errno not in (errno.EPERM, errno.ENOTSUP, errno.ENOSYS):
            raise
        message = f"no hard links here ({error.strerror}): `vernal-worker doctor --store` says what a store needs"
        raise OSError(errno.ENOTSUP, message, str(name)) from error


LOCAL = frozenset({"btrfs", "ext4", "f2fs", "overlay", "tmpfs", "xfs", "zfs"})
"""Types of file systems that one kernel alone has: what it remembers of a directory is true."""


def mount(path: Path) -> tuple[str, dict[str, str]]:
    """The type of the file system that holds `path`, and the options it is mounted with."""
    device = path.stat().st_dev
    wanted = f"{os.major(device)}:{os.minor(device)}"
    found = "", dict[str, str]()
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        before, _, after = line.partition(" - ")
        if before.split()[2] == wanted:
            kind, _, options = after.split(maxsplit=2)
            pairs = [option.partition("=") for option in options.split(",")]
            found = kind, {name: value for name, _, value in pairs}
    return found


def clock(directory: Path) -> float:
    """What time it is by the storage's clock, to compare with modification times: this machine's may differ."""
    probe = directory / f"{CLOCK}{unique()}"
    write_new(probe, b"")
    try:
        return probe.stat().st_mtime
    finally:
        probe.unlink()
