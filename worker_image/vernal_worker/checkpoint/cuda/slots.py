"""Page-locked memory through which bytes pass between files and GPUs: small pieces that are used again and again, for
page-locking costs 0.3 s a GiB.

All of it is made and page-locked at once. Each call of the driver waits for what others do there, and a thaw makes GPU
memory at that moment; and memory can be had from the kernel before there is a driver to lock it.
"""

import ctypes
import mmap
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

from vernal_worker.checkpoint.cuda.driver import bindings, call

SIZE = 4 << 20
"""Bytes: what the GPU copies next is then still in the cores' caches, and calls are few."""

EACH = 2
"""Of a thread: the GPU copies one while the other is read into."""

_MOST_THREADS = 10
"""For each rank: as fast as with more, and CRIU fills memory meanwhile."""

_POPULATE_WRITE = 23  # MADV_POPULATE_WRITE, madvise(2)

_libc = ctypes.CDLL(None, use_errno=True)
_libc.madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]


def default_threads(ranks: int = 1) -> int:
    """For each of so many ranks that move their bytes at the same time. A core is left for CRIU."""
    return max(1, min(_MOST_THREADS, (len(os.sched_getaffinity(0)) - 2) // ranks))


class Slot(NamedTuple):
    """One of them: the memory, and where it is."""

    view: memoryview
    address: int


class Slots:
    """So many, of huge pages."""

    def __init__(self, count: int) -> None:
        self.count, size = count, count * SIZE
        self._map = mmap.mmap(-1, size + SIZE)  # a kernel may begin it anywhere, and huge pages do not
        self._map.madvise(mmap.MADV_HUGEPAGE)
        whole = memoryview(self._map)
        address = ctypes.addressof(ctypes.c_char.from_buffer(self._map))
        skipped = -address % SIZE
        self._address, self._size = address + skipped, size
        own = whole[skipped : skipped + size]
        self._free = [Slot(own[at : at + SIZE], self._address + at) for at in range(0, size, SIZE)]
        self._lock = threading.Lock()
        self._locked = False
        for slot in self._free:  # one at a time: meanwhile nobody maps anything
            _libc.madvise(slot.address, SIZE, _POPULATE_WRITE)  # a kernel before 5.14 gives memory when it is used

    def lock(self) -> None:
        """Page-lock them for every GPU, if they are not. A context is current. Raises: DriverError."""
        with self._lock:
            if not self._locked:
                call("cuMemHostRegister", self._address, self._size, bindings().CU_MEMHOSTREGISTER_PORTABLE)
                self._locked = True

    @contextmanager
    def lent(self, count: int) -> Iterator[list[Slot]]:
        """So many that nobody else has as long as the block takes. Raises: ValueError: there are not so many."""
        with self._lock:
            taken, self._free = self._free[:count], self._free[count:]
        try:
            if len(taken) < count:
                raise ValueError(f"{count} slots were asked for, and {len(taken)} of {self.count} are there")
            yield taken
        finally:
            with self._lock:
                self._free += taken

    def close(self) -> None:
        """Undo `lock`. Raises: DriverError."""
        with self._lock:
            if self._locked:
                call("cuMemHostUnregister", self._address)
                self._locked = False


@contextmanager
def page_locked(count: int, given: Slots | None = None) -> Iterator[list[Slot]]:
    """So many slots, of `given` where it is, as long as the block takes. A context is current.

    Raises: DriverError; ValueError: `given` has not so many.
    """
    slots = given if given is not None else Slots(count)
    slots.lock()
    try:
        with slots.lent(count) as lent:
            yield lent
    finally:
        if given is None:
            slots.close()
