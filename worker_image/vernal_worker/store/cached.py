"""Which files of artifacts a node cache has: how they are named, which are there, and what they cost."""

import errno
import mmap
import os
import stat
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path

from vernal_worker.store import blobs, eviction, layout
from vernal_worker.store.eviction import Cached
from vernal_worker.store.manifest import FileEntry, Manifest


def name(entry: FileEntry) -> str:
    return blobs.path(Path(), entry.size, entry.blake3).name


def wanted(content: Manifest) -> dict[str, FileEntry]:
    """The files of an artifact by their names in a cache: equal ones once."""
    return {name(entry): entry for entry in content.files}


def missing(directory: Path, files: Mapping[str, FileEntry]) -> list[str]:
    """Which of the files are not in the directory with the size that they should have. Raises: OSError."""
    there: dict[str, int] = {}
    for each in files:
        with suppress(FileNotFoundError):
            info = (directory / each).lstat()
            if stat.S_ISREG(info.st_mode):
                there[each] = info.st_size
    return eviction.missing({each: entry.size for each, entry in files.items()}, there)


def probe(file: Path) -> None:
    """Read something from the disk itself, where the page cache may hide that it hangs. Raises: OSError."""
    try:
        fd = os.open(file, os.O_RDONLY | os.O_CLOEXEC | os.O_DIRECT)
        try:
            with mmap.mmap(-1, eviction.BLOCK) as block:
                os.preadv(fd, [block], 0)
        finally:
            os.close(fd)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOENT):  # not on every file system; gone this moment
            raise


def inventory(directory: Path, busy: Path) -> tuple[list[Cached], int]:
    """The files that have a name, and the bytes of those below `busy` that have none: not yet, or not any more while
    somebody reads them. Raises: OSError."""
    named: dict[int, Cached] = {}
    for each, info in stats([directory]):
        if layout.is_digest(each):
            bytes_ = eviction.on_disk(info.st_size)
            named[info.st_ino] = Cached(each, bytes_, info.st_mtime, held=info.st_nlink > 1)
    others = {info.st_ino: info.st_size for _, info in stats(busy.iterdir()) if info.st_ino not in named}
    return list(named.values()), sum(map(eviction.on_disk, others.values()))


def stats(directories: Iterable[Path]) -> Iterator[tuple[str, os.stat_result]]:
    """The files in and below directories. Raises: OSError."""
    for directory in directories:
        for parent, _, files in os.walk(directory):
            for each in files:
                with suppress(FileNotFoundError):
                    yield each, Path(parent, each).lstat()
