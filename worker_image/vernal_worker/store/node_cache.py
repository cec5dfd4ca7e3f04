"""Files of artifacts on the disk of a node, in front of whatever store its workers have.

    v1/blobs/<digest>     a file of an artifact, under the same name as a store's blob: of its size and its digests
    v1/busy/<unique>/     of one worker: the view of an artifact that it reads, or the file that it is writing
    v1/filling            locked by the one who fills

What a file must be is never asked here: names, sizes and digests are those of the manifest that came from the store,
and whoever thaws compares every byte. So a cache that was emptied, cut off or written to by somebody else gives a miss,
and never another answer.

A view has a hard link of each file. So what is read cannot vanish, and a file with a second link is one that somebody
reads. All marks are locks (flock(2)), which the kernel takes away with their owner: a node's workers share one kernel.
There is nothing to repair after a kill: a file gets its name when it is whole, and what a dead worker left in `busy` is
removed by the next one who fills.
"""

import errno
import fcntl
import mmap
import os
import stat
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from blake3 import blake3
from vernal_contract.config import Verify
from vernal_contract.reasons import Reason

from vernal_worker.store import blobs, eviction, fs, layout
from vernal_worker.store.artifact import Artifact
from vernal_worker.store.errors import StoreError, Touch, guard
from vernal_worker.store.eviction import Cached
from vernal_worker.store.manifest import FileEntry, Manifest
from vernal_worker.store.pieces import PIECE

FORMAT = "v1"
BUSY, FILLING = "busy", "filling"

PATIENCE = 5.0
"""Seconds that a look, or the end of one, may take: a node's own disk that is slower is of no use to a start."""

_TURN_SECONDS = 0.5
_TRIES = 16
_READ = 1 << 20


@dataclass(frozen=True)
class Filled:
    """`bytes` of files were added, and `evicted` bytes of others went for them. Nothing was if `full` says why."""

    bytes: int = 0
    evicted: int = 0
    full: str = ""


class View:
    """An artifact as the cache has it, for reading until `release`: `path` is its directory. A context manager."""

    def __init__(self, path: Path, lock: int, touch: Touch) -> None:
        self.path = path
        self._lock, self._touch = lock, touch

    def release(self) -> None:
        """Give it back. Never raises; twice is fine. A disk that hangs is not waited for."""
        lock, self._lock = self._lock, -1
        if lock >= 0:
            with suppress(StoreError):
                self._touch("cache", lambda: fs.remove_tree(self.path))
            os.close(lock)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()


class NodeCache:
    """The cache in the directory `root`, of which this user alone may read what it puts there.

    Args:
        limit: bytes of disk that it may have.
        spare: how many bytes may be added, as far as something else than the disk says so; None: it does not.
        patience: see `PATIENCE`; None: as long as it takes.
        cancel: a look and a fill end when it is set, with `THAW_GIVEN_UP`.
    """

    def __init__(
        self,
        root: Path,
        limit: int,
        *,
        spare: Callable[[], int | None] = lambda: None,
        patience: float | None = PATIENCE,
        cancel: threading.Event | None = None,
    ) -> None:
        self._mount, self._root, self._limit, self._spare = root, root / FORMAT, limit, spare
        self._cancel = cancel or threading.Event()
        self._touch = Touch(patience, cancel)

    # --- for who thaws ---

    def look(self, content: Manifest) -> View | None:
        """The artifact of this manifest, if all of its files are here, with the sizes that they should have. Their
        bytes are the caller's to compare.

        Raises:
            StoreError: stage cache: the disk cannot be read or written, or does not answer.
        """
        return self._touch.acquire("cache", lambda: self._look(content), View.release)

    def _look(self, content: Manifest) -> View | None:
        wanted = _wanted(content)
        if self._missing(wanted):
            return None
        self._probe(max(wanted, key=lambda name: wanted[name].size, default=None))
        path, lock = self._claim()
        view = View(path, lock, self._touch)
        try:
            for entry in content.files:
                file = path / entry.path
                for parent in reversed(file.relative_to(path).parents[:-1]):
                    (path / parent).mkdir(mode=0o700, exist_ok=True)
                os.link(self._blobs / _name(entry), file, follow_symlinks=False)
            Artifact(path, content).verify(Verify.SIZES)
            for name in wanted:
                os.utime(self._blobs / name, follow_symlinks=False)
        except (FileNotFoundError, StoreError):  # evicted at this moment, or no file any more
            view.release()
            return None
        except BaseException:
            view.release()
            raise
        return view

    def drop(self, content: Manifest) -> None:
        """Forget the files of this manifest, whoever reads them: one of them is not what it should be.

        Raises:
            StoreError: as `look`.
        """

        def drop() -> None:
            for name in _wanted(content):
                (self._blobs / name).unlink(missing_ok=True)

        self._touch("cache", drop)

    # --- for who has read an artifact from elsewhere ---

    def fill(self, artifact: Artifact, on_progress: Callable[[int, int], None] = lambda done, total: None) -> Filled:
        """Have the artifact's files here, too, of which each byte is compared on the way. One worker at a time fills;
        the next one waits for it, and looks again what is missing. May take as long as the disks want.
        `on_progress` is told how many bytes have been copied, and of how many.

        Raises:
            StoreError: stage cache: one of the disks cannot be read or written; `DIGEST_MISMATCH`: the artifact is not
                what its manifest says; `THAW_GIVEN_UP`. Files that were whole by then stay.
        """
        with guard("cache"):
            for directory in (self._blobs, self._busy):
                fs.make_directory(directory, self._mount)
            with self._turn():
                self._sweep()
                return self._fill(artifact, on_progress)

    def _fill(self, artifact: Artifact, on_progress: Callable[[int, int], None]) -> Filled:
        wanted = _wanted(artifact.manifest)
        names = self._missing(wanted)
        if not names:
            return Filled()
        for name in names:  # which may be there with another size
            (self._blobs / name).unlink(missing_ok=True)
        needed = sum(eviction.on_disk(wanted[name].size) for name in names)
        if (spare := self._spare()) is not None and needed > spare:
            return Filled(full=f"{needed} bytes are needed, and the pod's memory limit has room for {spare}")
        files, unnamed = self._inventory()
        disk = os.statvfs(self._root)
        used = unnamed + sum(file.bytes for file in files)
        room = eviction.allowed(self._limit, used, disk.f_bavail * disk.f_frsize, disk.f_blocks * disk.f_frsize)
        going = eviction.victims(files, wanted.keys(), needed, room - unnamed)
        if going is None:
            return Filled(full=f"{needed} bytes are needed; it may have {room}, and has {used} of which too many stay")
        evicted = sum(file.bytes for file in files if file.name in going)
        for name in going:
            (self._blobs / name).unlink(missing_ok=True)
        path, lock = self._claim()
        done, total = 0, sum(wanted[name].size for name in names)

        def copied(count: int) -> None:
            nonlocal done
            done += count
            on_progress(done, total)

        try:
            for name in names:
                self._copy(artifact, wanted[name], path / name, copied)
                (path / name).rename(self._blobs / name)
        finally:
            fs.remove_tree(path)
            os.close(lock)
        return Filled(total, evicted)

    def _copy(self, artifact: Artifact, entry: FileEntry, to: Path, copied: Callable[[int], None]) -> None:
        """Written through piece by piece, so that the node's memory does not fill with what others then wait for."""
        buffer = memoryview(bytearray(min(_READ, max(entry.size, 1))))
        source = os.open(artifact.path / entry.path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            target = os.open(to, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o600)
            try:
                for digest in entry.blake3:
                    hasher, left = blake3(), PIECE
                    while left and (count := os.readv(source, [buffer[:left]])):
                        self._go_on()
                        hasher.update(buffer[:count])
                        _write(target, buffer[:count])
                        left -= count
                        copied(count)
                    if hasher.hexdigest() != digest:
                        message = f"{artifact.generation}/{entry.path} has other bytes than were written"
                        raise StoreError(Reason.DIGEST_MISMATCH, "cache", message)
                    os.fdatasync(target)
            finally:
                os.close(target)
        finally:
            os.close(source)

    # --- underneath ---

    @property
    def _blobs(self) -> Path:
        return self._root / layout.BLOBS

    @property
    def _busy(self) -> Path:
        return self._root / BUSY

    def _missing(self, wanted: Mapping[str, FileEntry]) -> list[str]:
        there: dict[str, int] = {}
        for name in wanted:
            with suppress(FileNotFoundError):
                info = (self._blobs / name).lstat()
                if stat.S_ISREG(info.st_mode):
                    there[name] = info.st_size
        return eviction.missing({name: entry.size for name, entry in wanted.items()}, there)

    def _probe(self, name: str | None) -> None:
        """Read something from the disk itself, where the page cache may hide that it hangs."""
        if name is None:
            return
        try:
            fd = os.open(self._blobs / name, os.O_RDONLY | os.O_CLOEXEC | os.O_DIRECT)
            try:
                with mmap.mmap(-1, eviction.BLOCK) as block:
                    os.preadv(fd, [block], 0)
            finally:
                os.close(fd)
        except OSError as error:
            if error.errno not in (errno.EINVAL, errno.ENOENT):  # not on every file system; gone this moment
                raise

    def _claim(self) -> tuple[Path, int]:
        """A new directory in `busy`, and the descriptor that has it locked."""
        for _ in range(_TRIES):
            path = self._busy / fs.unique()
            path.mkdir(mode=0o700)
            lock = -1
            with suppress(FileNotFoundError, BlockingIOError):  # a sweep came before the lock
                lock = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if path.stat().st_ino == os.fstat(lock).st_ino:
                    return path, lock
            if lock >= 0:
                os.close(lock)
        raise StoreError(Reason.STORE_UNAVAILABLE, "cache", f"{self._busy}: what is made there vanishes")

    def _sweep(self) -> None:
        """Remove what nobody has locked: its owner is dead, or has not come to lock it yet, and then makes another."""
        for name in layout.names(self._busy):
            if not layout.is_unique(name):
                continue
            with suppress(FileNotFoundError, NotADirectoryError, BlockingIOError):
                lock = os.open(self._busy / name, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
                try:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    fs.remove_tree(self._busy / name)
                finally:
                    os.close(lock)

    def _inventory(self) -> tuple[list[Cached], int]:
        """The files that have a name, and the bytes of those that somebody reads and that have lost theirs."""
        named: dict[int, Cached] = {}
        for name, info in _stats([self._blobs]):
            if layout.is_digest(name):
                bytes_ = eviction.on_disk(info.st_size)
                named[info.st_ino] = Cached(name, bytes_, info.st_mtime, held=info.st_nlink > 1)
        others = {info.st_ino: info.st_size for _, info in _stats(self._busy.iterdir()) if info.st_ino not in named}
        return list(named.values()), sum(map(eviction.on_disk, others.values()))

    @contextmanager
    def _turn(self) -> Iterator[None]:
        fd = os.open(self._root / FILLING, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
        try:
            while True:
                self._go_on()
                try:
                    fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    self._cancel.wait(_TURN_SECONDS)
            yield
        finally:
            os.close(fd)

    def _go_on(self) -> None:
        if self._cancel.is_set():
            raise StoreError(Reason.THAW_GIVEN_UP, "cache", "cancelled")


def _name(entry: FileEntry) -> str:
    return blobs.path(Path(), entry.size, entry.blake3).name


def _wanted(content: Manifest) -> dict[str, FileEntry]:
    """The files of an artifact by their names here: equal ones once."""
    return {_name(entry): entry for entry in content.files}


def _stats(directories: Iterable[Path]) -> Iterator[tuple[str, os.stat_result]]:
    """The files in and below directories."""
    for directory in directories:
        for parent, _, files in os.walk(directory):
            for name in files:
                with suppress(FileNotFoundError):
                    yield name, Path(parent, name).lstat()


def _write(fd: int, data: memoryview) -> None:
    while data:
        data = data[os.write(fd, data) :]
