"""Filling memory of processes that stand still, with many threads: what `images.take_out` took out.

Bytes are digested on their way, so that a thaw reads them once.
"""

import ctypes
import os
import threading
from array import array
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from itertools import groupby
from pathlib import Path

import msgspec
from blake3 import blake3
from vernal_contract.reasons import Reason

from vernal_worker.checkpoint.errors import OTHER_BYTES, CheckpointError, ends_early, reading
from vernal_worker.checkpoint.taken import PAGE, Memory
from vernal_worker.parallel import for_each

PIECE = (2 << 20) // PAGE
"""Pages that are read and written at once: what stays in a core's cache meanwhile."""

_MOST_VECTORS = 1024  # UIO_MAXIOV
_MOST_THREADS = 16


class Digests(msgspec.Struct, frozen=True):
    """BLAKE3 in hex of every `piece` bytes of files, by their names. `piece` is a multiple of a page."""

    piece: int
    of: Mapping[str, Sequence[str]]

    def expected(self, file: str, offset: int) -> str:
        """Of the piece at `offset`; nothing is equal to it where the file should have ended."""
        known, number = self.of.get(file, ()), offset // self.piece
        return known[number] if number < len(known) else ""


class Stretch(msgspec.Struct, frozen=True):
    """Consecutive bytes of a file, which one thread reads, and where they belong. `digest`: theirs, if they are to be
    compared."""

    pid: int
    file: str
    fd: int
    pieces: Sequence[tuple[int, Sequence[tuple[int, int]]]]  # offset; address and pages of each run
    digest: str | None

    @property
    def size(self) -> int:
        return sum(_size(runs) for _, runs in self.pieces)


def fill(memories: Sequence[Memory], directory: Path, digests: Digests | None, tick: Callable[[], None]) -> None:
    """Write the contents of the files in `directory` to the processes' memory.

    Args:
        digests: what must be in the files; None to trust the storage.
        tick: called now and then; may raise to give up.

    Raises:
        CheckpointError: stage `memory`; the message names the file: `DIGEST_MISMATCH`; what `errors.reading` makes of a
            file that cannot be read; `CRIU_RESTORE_FAILED`: a process's memory is not as it was.
    """
    given_up = threading.Event()
    threads = min(len(os.sched_getaffinity(0)), _MOST_THREADS)
    with ExitStack() as stack:
        stretches: list[Stretch] = []
        for memory in memories:
            with reading("memory", memory.file):
                fd = os.open(directory / memory.file, os.O_RDONLY | os.O_CLOEXEC)
            stack.callback(os.close, fd)
            stretches += _stretches(memory, fd, digests)
        stretches.sort(key=lambda stretch: -stretch.size)  # so that no thread begins a long one when others are done
        tick()  # opening may have taken so long that others have these PIDs by now
        stack.callback(given_up.set)  # goes first: before the files are closed and others may get these PIDs
        for_each(stretches, lambda stretch: _fill(stretch, given_up), threads, tick)


def _stretches(memory: Memory, fd: int, digests: Digests | None) -> Iterator[Stretch]:
    if digests is None:
        for piece in cut(memory.runs):
            yield Stretch(memory.pid, memory.file, fd, [piece], None)
        return
    step = digests.piece
    for number, pieces in groupby(cut(memory.runs, within=step // PAGE), lambda piece: piece[0] // step):
        expected = digests.expected(memory.file, number * step)
        yield Stretch(memory.pid, memory.file, fd, list(pieces), expected)


def cut(
    runs: Sequence[tuple[int, int]], most: int = PIECE, within: int = PIECE
) -> Iterator[tuple[int, list[tuple[int, int]]]]:
    """Runs, whose pages follow each other in a file, in pieces of at most `most` pages: each with its offset. None
    reaches from one stretch of `within` pages of the file into the next."""
    start = size = 0  # of this piece, in pages
    piece: list[tuple[int, int]] = []
    for address, pages in runs:
        done = 0
        while done < pages:
            room = min(most, within - start % within) - size
            if not room or len(piece) == _MOST_VECTORS:
                yield start * PAGE, piece
                start += size
                size, piece = 0, []
                continue
            count = min(pages - done, room)
            piece.append((address + done * PAGE, count))
            done, size = done + count, size + count
    if piece:
        yield start * PAGE, piece


def _size(runs: Sequence[tuple[int, int]]) -> int:
    return PAGE * sum(pages for _, pages in runs)


def _fill(stretch: Stretch, given_up: threading.Event) -> None:
    if not hasattr(_local, "buffer"):
        _local.buffer = bytearray(PIECE * PAGE)
    buffer: bytearray = _local.buffer
    hasher = blake3()
    for offset, runs in stretch.pieces:
        view = memoryview(buffer)[: _size(runs)]
        done = 0
        while done < len(view):
            with reading("memory", stretch.file):
                count = os.preadv(stretch.fd, [view[done:]], offset + done)
            if given_up.is_set():  # the storage hung meanwhile
                return
            if count == 0:
                raise ends_early("memory", stretch.file)
            done += count
        if stretch.digest is not None:
            hasher.update(view)
        _write(stretch.pid, buffer, runs)
    if stretch.digest is not None and hasher.hexdigest() != stretch.digest:
        start = stretch.pieces[0][0]
        message = f"{stretch.file} (bytes {start} to {start + stretch.size}) {OTHER_BYTES}"
        raise CheckpointError(Reason.DIGEST_MISMATCH, "memory", message)


def _write(pid: int, buffer: bytearray, runs: Sequence[tuple[int, int]]) -> None:
    size = _size(runs)
    there = array("Q", [number for address, pages in runs for number in (address, pages * PAGE)])
    here = array("Q", [ctypes.addressof(ctypes.c_char.from_buffer(buffer)), size])
    written = _libc.process_vm_writev(
        pid,
        ctypes.c_void_p(here.buffer_info()[0]),
        ctypes.c_ulong(1),
        ctypes.c_void_p(there.buffer_info()[0]),
        ctypes.c_ulong(len(runs)),
        ctypes.c_ulong(0),
    )
    if written != size:
        reason = os.strerror(ctypes.get_errno()) if written < 0 else f"{written} of {size} bytes"
        raise CheckpointError(Reason.CRIU_RESTORE_FAILED, "memory", f"writing memory of process {pid}: {reason}")


_local = threading.local()
_libc = ctypes.CDLL(None, use_errno=True)
_libc.process_vm_writev.restype = ctypes.c_ssize_t
