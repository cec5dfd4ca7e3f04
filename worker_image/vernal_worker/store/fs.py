"""Durable and private files and directories."""

import os
import shutil
import uuid
from contextlib import suppress
from pathlib import Path

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
    """
    fd = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o600)
    with open(fd, "wb") as f:
        os.fchmod(fd, 0o600)
        f.write(data)
        f.flush()
        os.fsync(fd)


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
    shutil.rmtree(path, ignore_errors=True)


def newest(path: Path) -> float:
    """The latest modification time at and below `path`, by the storage's clock."""
    times = [path.lstat().st_mtime]
    for directory, directories, files in os.walk(path):
        for name in (*directories, *files):
            with suppress(FileNotFoundError):
                times.append(Path(directory, name).lstat().st_mtime)
    return max(times)


def clock(directory: Path) -> float:
    """What time it is by the storage's clock, to compare with modification times: this machine's may differ."""
    probe = directory / f".clock-{unique()}"
    write_new(probe, b"")
    try:
        return probe.stat().st_mtime
    finally:
        probe.unlink()
