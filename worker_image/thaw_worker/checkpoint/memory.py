"""Filling memory of processes that stand still, with many threads: what `images.take_out` took out."""

import ctypes
import errno
import os
import threading
from array import array
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from thaw_worker.checkpoint.images import PAGE, Memory
from thaw_worker.parallel import for_each

PIECE = (2 << 20) // PAGE
"""Pages that are read and written at once: what stays in a core's cache meanwhile."""

_MOST_VECTORS = 1024  # UIO_MAXIOV
_MOST_THREADS = 16


@dataclass(frozen=True)
class Piece:
    """Consecutive pages of a file, and where they belong."""

    pid: int
    file: int  # descriptor
    offset: int
    runs: Sequence[tuple[int, int]]  # address and pages

    @property
    def size(self) -> int:
        return PAGE * sum(pages for _, pages in self.runs)


def fill(memories: Sequence[Memory], directory: Path, tick: Callable[[], None]) -> None:
    """Write the contents of the files in `directory` to the processes' memory.

    Args:
        tick: called now and then; may raise to give up.

    Raises:
        OSError: a file cannot be read, is too short, or a process's memory is not as it was.
    """
    given_up = threading.Event()
    threads = min(len(os.sched_getaffinity(0)), _MOST_THREADS)
    with ExitStack() as stack:
        pieces: list[Piece] = []
        for memory in memories:
            fd = os.open(directory / memory.file, os.O_RDONLY | os.O_CLOEXEC)
            stack.callback(os.close, fd)
            pieces += (Piece(memory.pid, fd, offset, runs) for offset, runs in cut(memory.runs))
        stack.callback(given_up.set)  # goes first: before the files are closed and others may get these PIDs
        for_each(pieces, lambda piece: _fill(piece, given_up), threads, tick)


def cut(runs: Sequence[tuple[int, int]], most: int = PIECE) -> Iterator[tuple[int, list[tuple[int, int]]]]:
    """Runs, whose pages follow each other in a file, in pieces of at most `most` pages: each with its offset."""
    offset = size = 0
    piece: list[tuple[int, int]] = []
    for address, pages in runs:
        done = 0
        while done < pages:
            if size == most or len(piece) == _MOST_VECTORS:
                yield offset, piece
                offset += size * PAGE
                size, piece = 0, []
            count = min(pages - done, most - size)
            piece.append((address + done * PAGE, count))
            done, size = done + count, size + count
    if piece:
        yield offset, piece


def _fill(piece: Piece, given_up: threading.Event) -> None:
    if not hasattr(_local, "buffer"):
        _local.buffer = bytearray(PIECE * PAGE)
    buffer: bytearray = _local.buffer
    view = memoryview(buffer)[: piece.size]
    done = 0
    while done < len(view):
        count = os.preadv(piece.file, [view[done:]], piece.offset + done)
        if given_up.is_set():  # the storage hung meanwhile
            return
        if count == 0:
            raise OSError(errno.EIO, "ends early", f"memory of process {piece.pid}")
        done += count
    there = array("Q", [number for address, pages in piece.runs for number in (address, pages * PAGE)])
    here = array("Q", [ctypes.addressof(ctypes.c_char.from_buffer(buffer)), len(view)])
    written = _libc.process_vm_writev(
        piece.pid,
        ctypes.c_void_p(here.buffer_info()[0]),
        ctypes.c_ulong(1),
        ctypes.c_void_p(there.buffer_info()[0]),
        ctypes.c_ulong(len(piece.runs)),
        ctypes.c_ulong(0),
    )
    if written != len(view):
        reason = os.strerror(ctypes.get_errno()) if written < 0 else f"{written} of {len(view)} bytes"
        raise OSError(ctypes.get_errno() or errno.EFAULT, f"writing memory: {reason}", f"process {piece.pid}")


_local = threading.local()
_libc = ctypes.CDLL(None, use_errno=True)
_libc.process_vm_writev.restype = ctypes.c_ssize_t
