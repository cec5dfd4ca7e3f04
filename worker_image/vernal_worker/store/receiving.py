"""Files that come from elsewhere, piece by piece, of which every byte is compared on the way."""

import os
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

from blake3 import blake3
from vernal_contract.reasons import Reason

from vernal_worker.parallel import for_each
from vernal_worker.store.artifact import Artifact
from vernal_worker.store.errors import StoreError
from vernal_worker.store.manifest import FileEntry
from vernal_worker.store.pieces import PIECE, Piece, pieces

_READ = 1 << 20


class Source(Protocol):
    """Where an artifact's pieces come from.

    Attributes:
        threads: how many pieces are asked for at a time.
        tries: how often one that comes with other bytes is asked for.
    """

    threads: int
    tries: int

    def parts(self, piece: Piece, digest: str) -> Iterator[memoryview]:
        """What should be the bytes of a piece, in order; each part is used up before the next one is asked for.

        Raises:
            StoreError, OSError: also later.
        """
        ...

    def damaged(self, piece: Piece, digest: str) -> StoreError:
        """What to raise when it has come with other bytes each time."""
        ...


class FromArtifact:
    """The source of who has read an artifact already."""

    threads = tries = 1  # it has no hurry, and its disk has the same bytes the next time

    def __init__(self, artifact: Artifact) -> None:
        self._artifact = artifact

    def parts(self, piece: Piece, digest: str) -> Iterator[memoryview]:
        buffer = memoryview(bytearray(min(_READ, piece.length)))
        at, end = piece.index * PIECE, piece.index * PIECE + piece.length
        fd = os.open(self._artifact.path / piece.path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            while at < end and (count := os.preadv(fd, [buffer[: end - at]], at)):
                yield buffer[:count]
                at += count
        finally:
            os.close(fd)

    def damaged(self, piece: Piece, digest: str) -> StoreError:
        message = f"{self._artifact.generation}/{piece.path} has other bytes than were written"
        return StoreError(Reason.DIGEST_MISMATCH, "cache", message)


class Disk:
    """Knows for how long calls to a disk have been under way: who waits in one that hangs cannot tell."""

    def __init__(self) -> None:
        self._since: dict[object, float] = {}

    @contextmanager
    def asked(self) -> Iterator[None]:
        """While something is asked of it."""
        call = object()
        self._since[call] = time.monotonic()
        try:
            yield
        finally:
            del self._since[call]

    @property
    def silent(self) -> float:
        """Seconds for which the oldest call has been under way."""
        return time.monotonic() - min(list(self._since.values()), default=time.monotonic())


def receive(
    source: Source,
    files: Mapping[Path, FileEntry],
    *,
    tick: Callable[[int], None],
    whole: Callable[[Path], None] = lambda path: None,
    disk: Disk | None = None,
    synced: bool = False,
) -> None:
    """Make these files, which nobody must find before they are whole, with the content of their entries.

    Args:
        tick: called now and then in the caller's thread with the bytes that have come; may raise to give up. Then what
            is under way ends after its piece.
        whole: called on some thread with each file that has every byte right.
        disk: told of each call to the disk that they are on.
        synced: each piece is on the disk when it counts: they survive a power cut, and the node's memory does not fill
            with what others then wait for. Otherwise the kernel writes them back in its own time.

    Raises:
        OSError: they cannot be written.
        StoreError: what `source` raises, also because a piece stays damaged.
    """
    wanted: list[tuple[Path, Piece, str]] = []
    left = Counter[Path]()
    lock, done, asked = threading.Lock(), [0], (disk or Disk()).asked
    for path, entry in files.items():
        with asked():
            _make(path, entry.size)
        wanted += [(path, *each) for each in zip(pieces(entry.path, entry.size), entry.blake3, strict=True)]
        left[path] = len(entry.blake3)

    def came(path: Path, piece: Piece, digest: str) -> bool:
        """Whether it has the right bytes."""
        hasher, at, start = blake3(), 0, piece.index * PIECE
        with asked():
            fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
        try:
            for part in source.parts(piece, digest):
                if at + len(part) > piece.length:
                    break
                hasher.update(part)
                with asked():
                    _write(fd, part, start + at)
                at += len(part)
                with lock:
                    done[0] += len(part)
            else:
                if at == piece.length and hasher.hexdigest() == digest:
                    if synced:
                        with asked():
                            os.fdatasync(fd)
                    return True
            with lock:
                done[0] -= at
            return False
        finally:
            os.close(fd)

    def get(item: tuple[Path, Piece, str]) -> None:
        path, piece, digest = item
        if not any(came(path, piece, digest) for _ in range(source.tries)):
            raise source.damaged(piece, digest)
        with lock:
            left[path] -= 1
            last = not left[path]
        if last:
            with asked():
                whole(path)

    for path in [path for path in files if not left[path]]:  # empty ones
        with asked():
            whole(path)
    for_each(wanted, get, source.threads, lambda: tick(done[0]))


def _make(path: Path, size: int) -> None:
    """A file of this size, of its owner alone whatever the umask."""
    fd = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o600)
    try:
        os.truncate(fd, size)
    finally:
        os.close(fd)


def _write(fd: int, data: memoryview, offset: int) -> None:
    while data:
        written = os.pwrite(fd, data, offset)
        data, offset = data[written:], offset + written
