"""Files that travel with a frozen tree: /dev/shm and whatever else is this pod's own and a process may have
open.

Their data goes into one file, holes left out: vLLM's shared memory files are hundreds of MiB of which a few
KiB are used.
"""

import errno
import os
import stat
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path

import msgspec
from vernal_contract.reasons import Reason

from vernal_worker.checkpoint.errors import CheckpointError, ends_early, reading

LINK_REMAP = "link_remap."
"""How CRIU names the links that it makes for files which are open under a name that is gone
(`--link-remap`)."""

SHM = Path("/dev/shm")  # noqa: S108

_CHUNK, _PIECE = 8 << 20, 1 << 20


class Carried(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One directory, file or link."""

    path: str
    mode: int  # with the type, as in stat(2)
    uid: int
    gid: int
    mtime_ns: int  # kernel caches of compilers go by it
    size: int = 0
    extents: tuple[tuple[int, int], ...] = ()  # offset and length of what is not a hole
    target: str | None = None  # of a symbolic link, or the earlier entry that this one is a hard link to


def collect(roots: Sequence[Path], data: Path, tick: Callable[[], None]) -> list[Carried]:
    """Copy `roots` and everything below into the new file `data`, and say what it is. Sockets and FIFOs are
    left out: CRIU makes them anew.

    `tick` is called between chunks and may raise to give up.

    Raises:
        CheckpointError: `SHM_FAILED`, or `STORE_FULL`.
    """
    entries: list[Carried] = []
    first_name: dict[tuple[int, int], str] = {}
    try:
        with open(data, "xb", buffering=0) as out:
            for path, info in _walk(roots):
                tick()
                inode = (info.st_dev, info.st_ino)
                size, extents, target = 0, [], None
                if stat.S_ISLNK(info.st_mode):
                    target = str(Path(path).readlink())
                elif stat.S_ISREG(info.st_mode) and (target := first_name.get(inode)) is None:
                    first_name[inode] = path
                    size, extents = info.st_size, _append(path, out.fileno(), tick)
                entries.append(
                    Carried(
                        path=path,
                        mode=info.st_mode,
                        uid=info.st_uid,
                        gid=info.st_gid,
                        mtime_ns=info.st_mtime_ns,
                        size=size,
                        extents=tuple(extents),
                        target=target,
                    )
                )
    except OSError as e:
        raise _failed("cannot copy", e) from e
    return entries


def lay(entries: Sequence[Carried], data: Path, tick: Callable[[], None], *, below: Path | None = None) -> None:
    """Make what `collect` took, or only what was below a directory. A directory that is there already is kept as it is.

    Raises:
        CheckpointError: `SHM_FAILED`: a file is there already, or there is no room; what `errors.reading` makes of
            `data` if it cannot be read, and `FILE_SIZE_MISMATCH`. What was made so far is left.
    """
    _check_room([entry for entry in entries if _is_wanted(entry, below)])
    with reading("files", data.name):
        fd = os.open(data, os.O_RDONLY | os.O_CLOEXEC)
    try:
        with open(fd, "rb", buffering=0) as source:
            for entry in entries:
                tick()
                path = Path(entry.path)
                if not _is_wanted(entry, below):
                    source.seek(sum(length for _, length in entry.extents), os.SEEK_CUR)
                elif not (stat.S_ISDIR(entry.mode) and path.is_dir() and not path.is_symlink()):
                    _make(entry, path, source.fileno(), tick)
    except OSError as e:
        raise _failed("cannot lay back", e) from e


def _is_wanted(entry: Carried, below: Path | None) -> bool:
    return below is None or Path(entry.path).is_relative_to(below)


def _check_room(entries: Sequence[Carried]) -> None:
    """Holes take no room now. The processes will write there, and one that finds no room is killed (SIGBUS)."""
    needed = sum(entry.size for entry in entries if Path(entry.path).is_relative_to(SHM) and entry.target is None)
    info = os.statvfs(SHM)
    free = info.f_frsize * info.f_bavail
    if info.f_blocks and free < needed:  # a tmpfs without a limit has no blocks
        sizes = f"{needed / (1 << 20):.0f} MiB needed for the engine's shared memory, {free / (1 << 20):.0f} MiB free"
        raise CheckpointError(Reason.SHM_FAILED, "files", f"{SHM}: {sizes}")


def contents(roots: Sequence[Path]) -> set[Path]:
    """Every path at and below `roots`, whatever it is."""
    found = {root for root in roots if root.exists()}
    for root in roots:
        for directory, directories, files in os.walk(root):
            found.update(Path(directory, name) for name in (*directories, *files))
    return found


def remove(paths: Iterable[Path]) -> None:
    """Remove files and empty directories, as far as they are there and can be removed."""
    for path in sorted(paths, reverse=True):  # what is inside a directory sorts after it
        with suppress(OSError):
            path.rmdir() if path.is_dir() and not path.is_symlink() else path.unlink()


def link_remaps(paths: Iterable[Path]) -> set[Path]:
    """CRIU's links among `paths`."""
    return {path for path in paths if path.name.startswith(LINK_REMAP)}


def _walk(roots: Sequence[Path]) -> Iterator[tuple[str, os.stat_result]]:
    """The directories, files and symbolic links of `roots`, parents first, in a fixed order."""
    pending = [str(root) for root in reversed(roots) if root.is_dir()]
    while pending:
        directory = pending.pop()
        yield directory, Path(directory).stat()
        below = []
        with os.scandir(directory) as listing:
            for entry in sorted(listing, key=lambda e: e.name):
                info = entry.stat(follow_symlinks=False)
                if stat.S_ISDIR(info.st_mode):
                    below.append(entry.path)
                elif stat.S_ISREG(info.st_mode) or stat.S_ISLNK(info.st_mode):
                    yield entry.path, info
        pending += reversed(below)


def _append(path: str, out: int, tick: Callable[[], None]) -> list[tuple[int, int]]:
    """Append the data of `path` to `out`; returns its extents."""
    extents: list[tuple[int, int]] = []
    with open(path, "rb", buffering=0) as source:
        end = 0
        while True:
            try:
                start = os.lseek(source.fileno(), end, os.SEEK_DATA)
            except OSError as e:
                if e.errno == errno.ENXIO:  # nothing but a hole from here on
                    return extents
                raise
            end = os.lseek(source.fileno(), start, os.SEEK_HOLE)
            extents.append((start, end - start))
            while start < end:
                tick()
                if not (sent := os.sendfile(out, source.fileno(), start, min(_CHUNK, end - start))):
                    raise OSError(errno.EIO, "file became shorter while it was copied", path)
                start += sent


def _make(entry: Carried, path: Path, source: int, tick: Callable[[], None]) -> None:
    """Make one entry; file data is taken from where `source` stands."""
    if stat.S_ISDIR(entry.mode):
        path.mkdir(parents=True)
    elif stat.S_ISLNK(entry.mode):
        path.symlink_to(entry.target or "")
    elif entry.target is not None:
        path.hardlink_to(entry.target)
    else:
        fd = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o600)
        try:
            _fill(entry, fd, source, tick)
        finally:
            os.close(fd)
    os.chown(path, entry.uid, entry.gid, follow_symlinks=False)
    if not stat.S_ISLNK(entry.mode):
        path.chmod(stat.S_IMODE(entry.mode))
    os.utime(path, ns=(entry.mtime_ns, entry.mtime_ns), follow_symlinks=False)


def _fill(entry: Carried, fd: int, source: int, tick: Callable[[], None]) -> None:
    os.ftruncate(fd, entry.size)
    for start, length in entry.extents:
        done = 0
        while done < length:
            tick()
            with reading("files", f"the data of {entry.path}"):  # apart: sendfile(2) does not say whose error it is
                data = os.read(source, min(_PIECE, length - done))
            if not data:
                raise ends_early("files", f"the data of {entry.path}")
            _write(fd, data, start + done)
            done += len(data)


def _write(fd: int, data: bytes, offset: int) -> None:
    left = memoryview(data)
    while left:
        done = os.pwrite(fd, left, offset)
        left, offset = left[done:], offset + done


def _failed(what: str, e: OSError) -> CheckpointError:
    # ENOSPC while copying out is the store's, while laying back /dev/shm's.
    full = e.errno in (errno.ENOSPC, errno.EDQUOT) and what == "cannot copy"
    name = f" {e.filename}" if e.filename else ""
    return CheckpointError(Reason.STORE_FULL if full else Reason.SHM_FAILED, "files", f"{what}{name}: {e.strerror}")
