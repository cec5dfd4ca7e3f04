"""Reading ahead what a restore needs: of the files that processes have mapped, libraries mostly, and others.

CRIU looks into each mapped file, one after the other, and lays a process's changed pages over the file's, for which the
kernel reads the unchanged ones first. Then the processes run, and need code. From a disk, one small read after the
other, that takes longer than everything else.
"""

import os
import threading
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from pathlib import Path

import msgspec

from vernal_worker.checkpoint.pagecache import will_need
from vernal_worker.parallel import for_each

_STEP = 8 << 20
"""Bytes that are asked for at once where others' reads must not wait long."""

_THREADS = 8

_LEISURE_SECONDS = 0.05
"""After so long, reading begins though the caller still has something else to do, which then takes long itself."""


class MappedFile(msgspec.Struct, frozen=True, array_like=True):
    """What to read of a file: offsets and lengths in bytes."""

    path: str
    ranges: tuple[tuple[int, int], ...]


def read_ahead(
    now: Sequence[MappedFile], later: Sequence[MappedFile] = (), *, at_leisure: threading.Event | None = None
) -> None:
    """Let the kernel read, and return at once. What cannot be read is left for others to complain about.

    `later` is asked for little by little, so that small reads that somebody waits for do not stand behind it.
    `at_leisure`: set when the caller needs the interpreter less; threads that ask the kernel take it from him.
    """

    def run() -> None:
        if at_leisure is not None:
            at_leisure.wait(_LEISURE_SECONDS)
        for_each(now, _ask, _THREADS, lambda: None)
        asked = 0
        for file in later:
            asked = _ask_slowly(file, asked)

    threading.Thread(target=run, name="read-ahead", daemon=True).start()


def _ask(file: MappedFile) -> None:
    with suppress(OSError), ExitStack() as stack:
        fd, end = _open(file, stack)
        for offset, length in file.ranges:
            will_need(fd, offset, min(length, end - offset))


def _ask_slowly(file: MappedFile, asked: int) -> int:
    """`asked`: bytes that were asked for and not waited for yet; returns the same."""
    with suppress(OSError), ExitStack() as stack:
        fd, end = _open(file, stack)
        for start, size in file.ranges:
            stop = min(start + size, end)
            for offset in range(start, stop, _STEP):
                length = min(_STEP, stop - offset)
                will_need(fd, offset, length)
                asked += length
                if asked >= _STEP:
                    os.pread(fd, 1, offset + length - 1)
                    asked = 0
    return asked


def _open(file: MappedFile, stack: ExitStack) -> tuple[int, int]:
    """A descriptor and the file's size: a list may say more. Raises: OSError: also of what is no file (any more)."""
    if not Path(file.path).is_file():  # to open a device may do something
        raise FileNotFoundError(file.path)
    fd = os.open(file.path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    stack.callback(os.close, fd)
    return fd, os.fstat(fd).st_size
