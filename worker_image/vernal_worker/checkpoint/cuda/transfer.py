"""Moving bytes between files and GPU memory: many threads, through slots of page-locked memory.

Threads read into slots while the GPU copies others (`bus`), or write what it has copied into theirs. What is in memory
already goes through slots as well: to page-lock it where it is takes longer.
"""

import errno
import os
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

from blake3 import blake3

from vernal_worker.checkpoint.cuda.bus import Bus, stream
from vernal_worker.checkpoint.cuda.digest import Digester
from vernal_worker.checkpoint.cuda.driver import call
from vernal_worker.checkpoint.cuda.layout import FILE_BYTES, in_turn, ranges
from vernal_worker.checkpoint.cuda.slots import EACH, SIZE, Slot, Slots, page_locked
from vernal_worker.checkpoint.errors import OTHER_BYTES
from vernal_worker.checkpoint.pagecache import cached, will_need

_HASHED = 1 << 20
"""Bytes that are read at once where they are hashed here: a whole slot would come from memory a second time."""

_PROBES = 8

Parts = Callable[[int, int], Iterator[tuple[int, int]]]
"""From an offset and a length in a file to the GPU addresses and lengths of what belongs there, in order."""

_Numbered = tuple[int, tuple[int, int]]
"""A piece's number, offset and length."""


class DigestError(Exception):
    """A piece has other bytes than were written; the message names it."""


class Source:
    """A rank's files to read from, through the page cache: so the next thaw on this node finds them there."""

    def __init__(self, paths: Sequence[Path]) -> None:
        """Raises: OSError."""
        self._files: list[tuple[Path, int]] = []
        try:
            for path in paths:
                self._files.append((path, os.open(path, os.O_RDONLY | os.O_CLOEXEC)))
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        for _, fd in self._files:
            os.close(fd)

    def place(self, offset: int) -> tuple[Path, int, int]:
        """The file that has the byte at `offset`, its descriptor, and where in it that is."""
        path, fd = self._files[offset // FILE_BYTES]
        return path, fd, offset % FILE_BYTES

    def expect(self, offset: int, length: int) -> None:
        """Have the kernel read these bytes all at once, if it has not: then a disk is asked for enough at a time."""
        _, fd, at = self.place(offset)
        probes = range(at, at + length, max(1, length // _PROBES))
        if any(cached(fd, probe) is False for probe in probes):
            with suppress(OSError):  # whoever reads it is told
                will_need(fd, at, length)


def load(
    source: Source,
    pieces: Sequence[tuple[int, int]],
    parts: Parts,
    digests: Sequence[str] | None,
    context: Any,
    threads: int,
    stop: threading.Event,
    digester: Digester | None = None,
    slots: Slots | None = None,
) -> None:
    """Bring `pieces` (offset, length) of what is stored to GPU memory. None is in two files.

    Args:
        parts: where they belong.
        digests: BLAKE3 of each piece in hex, or None to trust the storage.
        stop: ends it early; set by the first error.
        slots: of which each thread takes `slots.EACH`; None to make them.
        digester: hashes what has arrived on the GPU, where each piece is one stretch then and this thread's current
            context is `context`. Without one the CPU hashes what it reads.

    Raises:
        DigestError, OSError, DriverError.
    """
    todo = deque(enumerate(pieces))
    on_cpu = digests is not None and digester is None

    def compare(number: int, found: str) -> None:
        if digests is not None and found != digests[number]:
            offset, length = pieces[number]
            path, _, at = source.place(offset)
            raise DigestError(f"{path.name} (bytes {at} to {at + length}) {OTHER_BYTES}")

    def arrived(number: int, queue: Any) -> None:
        """All of a piece."""
        if digester is not None:
            ((address, length),) = parts(*pieces[number])
            digester.begin(queue, number, address, length)

    def read(bus: Bus) -> None:
        for number, (offset, length) in _taken(todo, stop):
            source.expect(offset, length)
            path, fd, at = source.place(offset)
            hasher = blake3()
            for start, size in ranges(length, SIZE):
                if (slot := bus.slot()) is None:
                    return
                for done, count in ranges(size, _HASHED if on_cpu else size):
                    block = slot.view[done : done + count]
                    _read(fd, block, at + start + done, path)
                    if on_cpu:
                        hasher.update(block)
                then = partial(arrived, number) if start + size == length else None
                bus.copy(slot, parts(offset + start, size), then)
            if on_cpu:
                compare(number, hasher.hexdigest())

    with page_locked(threads * EACH, slots) as lent:
        bus = Bus(lent, threads)
        run_all([(bus.run, bus.end), *[(partial(read, bus), bus.no_more)] * threads], context, stop)
    if digester is not None and not stop.is_set():
        for number, found in enumerate(digester.found()):
            compare(number, found)


def _taken(todo: deque[_Numbered], stop: threading.Event) -> Iterator[_Numbered]:
    """One after the other, until there is nothing left."""
    while not stop.is_set():
        try:
            item = todo.popleft()
        except IndexError:
            return
        yield item


def store(
    files: Sequence[int],
    pieces: Sequence[tuple[int, int]],
    parts: Parts,
    context: Any,
    threads: int,
) -> list[str]:
    """Write GPU memory to a rank's files, open descriptors; returns the digests of `pieces` (offset, length; none is in
    two files). `parts(offset, length)` gives the GPU addresses and lengths of what belongs there.

    Raises: OSError, DriverError.
    """
    digests = [""] * len(pieces)
    todo = deque((number, pieces[number]) for number in in_turn(pieces))
    stop = threading.Event()

    def write(slot: Slot) -> None:
        with stream() as copies:
            for number, (offset, length) in _taken(todo, stop):
                hasher = blake3()
                for start, size in ranges(length, SIZE):
                    filled = 0
                    for address, count in parts(offset + start, size):
                        call("cuMemcpyDtoHAsync", slot.address + filled, address, count, copies)
                        filled += count
                    call("cuStreamSynchronize", copies)
                    hasher.update(slot.view[:size])
                    _write(files[offset // FILE_BYTES], slot.view[:size], offset % FILE_BYTES + start)
                digests[number] = hasher.hexdigest()

    with page_locked(threads) as lent:
        run_all([(partial(write, slot), _nothing) for slot in lent], context, stop)
    return digests


def run_all(work: Sequence[tuple[Callable[[], None], Callable[[], None]]], context: Any, stop: threading.Event) -> None:
    """Run functions on threads of their own in a CUDA context. After each, whatever happened to it, and if it could not
    begin, what comes with it is called. The first error sets `stop`, and is raised when all have ended."""
    errors: list[BaseException] = []

    def failed(error: BaseException) -> None:
        errors.append(error)
        stop.set()

    def run(function: Callable[[], None], ended: Callable[[], None]) -> None:
        try:
            call("cuCtxSetCurrent", context)
            function()
        except BaseException as error:
            failed(error)
        finally:
            ended()

    threads: list[threading.Thread] = []
    for function, ended in work:
        thread = threading.Thread(target=run, args=[function, ended], daemon=True)
        try:
            thread.start()
            threads.append(thread)
        except RuntimeError as error:  # no more threads
            failed(error)
            ended()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]


def _nothing() -> None:
    pass


def _read(fd: int, view: memoryview, offset: int, path: Path) -> None:
    done = 0
    while done < len(view):
        count = os.preadv(fd, [view[done:]], offset + done)
        if count == 0:
            raise OSError(errno.EIO, "ends early", str(path))
        done += count


def _write(fd: int, view: memoryview, offset: int) -> None:
    done = 0
    while done < len(view):
        done += os.pwritev(fd, [view[done:]], offset + done)
