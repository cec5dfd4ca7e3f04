"""Moving bytes between files and GPU memory: many threads, each with two pinned slots and one stream.

A thread reads (or writes) one slot while the GPU copies the other, and digests what passes by. Slots are small and
used again and again, because pinning memory costs 0.3 s a GiB. Files that are in huge pages already (`pinned`), and not
too large, the GPU copies from where they are: as fast, and CRIU has the cores and their way to memory to itself.
"""

import ctypes
import errno
import mmap
import os
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

from blake3 import blake3

from vernal_worker.checkpoint.cuda.digest import Digester
from vernal_worker.checkpoint.cuda.driver import bindings, call, copy_to_gpu, happened, record
from vernal_worker.checkpoint.cuda.layout import FILE_BYTES, in_turn, ranges
from vernal_worker.checkpoint.cuda.pinned import Pinned, in_huge_pages
from vernal_worker.checkpoint.errors import OTHER_BYTES
from vernal_worker.checkpoint.pagecache import cached, will_need

SLOT = 4 << 20
"""Bytes: what the GPU copies next is then still in the cores' caches, and calls are few."""

_HASHED = 1 << 20
"""Bytes that are read at once where they are hashed here: a whole slot would come from memory a second time."""

_PROBES = 8
_MOST_THREADS = 10
"""For each rank: as fast as with more, and CRIU fills memory meanwhile."""


Parts = Callable[[int, int], Iterator[tuple[int, int]]]
"""From an offset and a length in a file to the GPU addresses and lengths of what belongs there, in order."""

_Numbered = tuple[int, tuple[int, int]]
"""A piece's number, offset and length."""


def default_threads(ranks: int = 1) -> int:
    """For each of so many ranks that move their bytes at the same time. A core is left for CRIU."""
    return max(1, min(_MOST_THREADS, (len(os.sched_getaffinity(0)) - 2) // ranks))


class DigestError(Exception):
    """A piece has other bytes than were written; the message names it."""


class _Slot:
    """Pinned host memory, of huge pages."""

    def __init__(self) -> None:
        self._map = mmap.mmap(-1, SLOT)
        self._map.madvise(mmap.MADV_HUGEPAGE)
        self.view = memoryview(self._map)
        self.address = ctypes.addressof(ctypes.c_char.from_buffer(self._map))
        call("cuMemHostRegister", self.address, SLOT, 0)
        flags = bindings().CUevent_flags
        self._event = call("cuEventCreate", flags.CU_EVENT_DISABLE_TIMING | flags.CU_EVENT_BLOCKING_SYNC)
        self.event = int(self._event)

    def wait(self) -> None:
        """Until the GPU has done with it."""
        if not happened(self.event):
            call("cuEventSynchronize", self._event)

    def close(self) -> None:
        call("cuMemHostUnregister", self.address)
        call("cuEventDestroy", self._event)


class Source:
    """A rank's files to read from, through the page cache: so the next thaw on this node finds them there."""

    def __init__(self, paths: Sequence[Path], *, pin: bool = True) -> None:
        """`pin`: whether the GPU is to copy from where the files are, if it can."""
        self._files: list[tuple[Path, int]] = []
        self._pinned: list[Pinned] = []
        try:
            for path in paths:
                self._files.append((path, os.open(path, os.O_RDONLY | os.O_CLOEXEC)))
            if pin and all(in_huge_pages(fd) for _, fd in self._files):
                self._pinned = [Pinned(fd) for _, fd in self._files]
        except BaseException:
            self.close()
            raise

    @property
    def in_memory(self) -> bool:
        """Whether the GPU can copy from where the files are."""
        return bool(self._pinned)

    def pin(self, offset: int, length: int) -> int | None:
        """Where these bytes are in memory, for the GPU to copy; None if it cannot. Once for each."""
        return self._pinned[offset // FILE_BYTES].at(offset % FILE_BYTES, length)

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
) -> None:
    """Bring `pieces` (offset, length) of what is stored to GPU memory. None is in two files.

    Args:
        parts: where they belong.
        digests: BLAKE3 of each piece in hex, or None to trust the storage.
        stop: ends it early; set by the first error.
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

    def hash_on_gpu(lane: _Lane, own: int, number: int) -> None:
        if digester is not None:
            ((address, length),) = parts(*pieces[number])
            digester.begin(lane.stream, own, number, address, length)

    def run(own: int) -> None:
        with _Lane() as lane:
            for number, (offset, length) in _taken(todo, stop):
                found = lane.load_piece(source, offset, length, parts, hashed=on_cpu)
                if on_cpu:
                    compare(number, found)
                hash_on_gpu(lane, own, number)

    def run_from_memory() -> None:
        with _Lane(slots=0) as lane:
            for number, (offset, length) in _taken(todo, stop):
                if not lane.load_from_memory(source, offset, length, parts):
                    todo.appendleft((number, (offset, length)))
                    return
                hash_on_gpu(lane, 0, number)

    if source.in_memory and not on_cpu:
        run_all([run_from_memory], context, stop)
    if todo:
        run_all([partial(run, number) for number in range(threads)], context, stop)
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


class _Lane:
    """One thread's stream and slots."""

    def __init__(self, slots: int = 2) -> None:
        self._count = slots

    def __enter__(self) -> "_Lane":
        self.stream = call("cuStreamCreate", bindings().CUstream_flags.CU_STREAM_NON_BLOCKING)
        self._queue = int(self.stream)
        self._slots = [_Slot() for _ in range(self._count)]
        self._turn = 0
        return self

    def __exit__(self, *_: object) -> None:
        self.drain()
        for slot in self._slots:
            slot.close()
        call("cuStreamDestroy", self.stream)

    def drain(self) -> None:
        call("cuStreamSynchronize", self.stream)

    def load_piece(self, source: Source, offset: int, length: int, parts: Parts, *, hashed: bool) -> str:
        source.expect(offset, length)
        path, fd, at = source.place(offset)
        hasher = blake3()
        for start, size in ranges(length, SLOT):
            slot = self._next()
            for done, count in ranges(size, _HASHED if hashed else size):
                block = slot.view[done : done + count]
                _read(fd, block, at + start + done, path)
                if hashed:
                    hasher.update(block)
            self._copy(slot.address, offset + start, size, parts)
            record(slot.event, self._queue)
        return hasher.hexdigest()

    def _copy(self, memory: int, offset: int, length: int, parts: Parts) -> None:
        for address, count in parts(offset, length):
            copy_to_gpu(address, memory, count, self._queue)
            memory += count

    def load_from_memory(self, source: Source, offset: int, length: int, parts: Parts) -> bool:
        """Have the GPU copy a piece from where it is; False if it cannot."""
        if (memory := source.pin(offset, length)) is None:
            return False
        self._copy(memory, offset, length, parts)
        return True

    def store_piece(self, fd: int, offset: int, length: int, parts: Parts) -> str:
        """Write what is at `parts(offset, length)`, GPU addresses and lengths, to its place in its file `fd`."""
        at = offset % FILE_BYTES
        hasher = blake3()
        for start, size in ranges(length, SLOT):
            slot = self._next()
            filled = 0
            for address, count in parts(offset + start, size):
                call("cuMemcpyDtoHAsync", slot.address + filled, address, count, self.stream)
                filled += count
            self.drain()
            hasher.update(slot.view[:size])
            _write(fd, slot.view[:size], at + start)
        return hasher.hexdigest()

    def _next(self) -> _Slot:
        slot = self._slots[self._turn]
        self._turn = (self._turn + 1) % len(self._slots)
        slot.wait()
        return slot


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
    todo = iter(in_turn(pieces))
    lock = threading.Lock()

    def run() -> None:
        with _Lane() as lane:
            while True:
                with lock:
                    number = next(todo, None)
                if number is None:
                    return
                offset, length = pieces[number]
                digests[number] = lane.store_piece(files[offset // FILE_BYTES], offset, length, parts)

    run_all([run] * threads, context)
    return digests


def run_all(work: Sequence[Callable[[], None]], context: Any, stop: threading.Event | None = None) -> None:
    """Run functions on threads of their own in a CUDA context; the first error is raised when all have ended."""
    errors: list[BaseException] = []

    def run(function: Callable[[], None]) -> None:
        try:
            call("cuCtxSetCurrent", context)
            function()
        except BaseException as error:
            errors.append(error)
            if stop is not None:
                stop.set()

    threads = [threading.Thread(target=run, args=[function], daemon=True) for function in work]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]


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
