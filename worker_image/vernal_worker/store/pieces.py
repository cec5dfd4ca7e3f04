"""Reading and hashing files piece by piece on several threads."""

import os
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec
from blake3 import blake3

from vernal_worker.parallel import for_each

PIECE = 64 << 20
"""Files are hashed in pieces of this size, so that one big file is read and hashed by many threads."""

_READ = 1 << 20
_MOST_THREADS = 16


class Piece(msgspec.Struct, frozen=True):
    """`length` bytes of file `path` (relative) from `index * PIECE` on."""

    path: str
    index: int
    length: int

    def __str__(self) -> str:
        start = self.index * PIECE
        return f"{self.path} (bytes {start} to {start + self.length})"


def count(size: int) -> int:
    """How many pieces a file of `size` bytes has."""
    return (size + PIECE - 1) // PIECE


def pieces(path: str, size: int) -> list[Piece]:
    return [Piece(path, i, min(PIECE, size - i * PIECE)) for i in range(count(size))]


def hash_all(
    directory: Path,
    wanted: Sequence[Piece],
    found: Callable[[Piece, str], None],
    *,
    threads: int | None,
    tick: Callable[[int], None],
) -> None:
    """Read every piece and call `found` (on one of `threads` threads) with it and its BLAKE3 in hex; of a file that is
    too short with the digest of what is there.

    `tick` is called in the caller's thread now and then with the bytes done.
    """
    done = [0]

    def work(piece: Piece) -> None:
        found(piece, _hash(directory / piece.path, piece))
        done[0] += piece.length  # off by a piece at worst, and only for show

    for_each(wanted, work, threads or default_threads(), lambda: tick(done[0]))


def default_threads() -> int:
    return min(_MOST_THREADS, len(os.sched_getaffinity(0)))


def _hash(path: Path, piece: Piece) -> str:
    hasher = blake3()
    buffer = memoryview(bytearray(min(_READ, piece.length)))
    offset, end = piece.index * PIECE, piece.index * PIECE + piece.length
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        while offset < end and (n := os.preadv(fd, [buffer[: end - offset]], offset)):
            hasher.update(buffer[:n])
            offset += n
    finally:
        os.close(fd)
    return hasher.hexdigest()
