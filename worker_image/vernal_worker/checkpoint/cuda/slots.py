"""Page-locked memory through which bytes pass between files and GPUs: small pieces that are used again and again, for
page-locking takes time.

It can be had from the kernel before there is a driver to lock it, and those of a rank are page-locked by one call: each
waits for what others do there, and a thaw makes GPU memory at that moment.
"""

import ctypes
import mmap
import os
import threading
from collections.abc import Iterator, Sequence
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
    """For each of so many ranks that move their bytes at the same time, of which each has a bus (`bus`) as well. A core
    is left for CRIU."""
    return max(1, min(_MOST_THREADS, (len(os.sched_getaffinity(0)) - 1) // max(1, ranks) - 1))


def most(gpus: int) -> int:
    """Slots for as many ranks as there are GPUs, or fewer, whatever takes more."""
    return max((ranks * default_threads(ranks) * EACH for ranks in range(1, gpus + 1)), default=0)


class Slot(NamedTuple):
    """One of them: the memory, and where it is."""

    view: memoryview
    address: int


class Slots:
    """So many, of huge pages. Nobody is lent what another has."""

    def __init__(self, count: int) -> None:
        self.count, size = count, count * SIZE
        # A kernel may begin it anywhere, and huge pages do not.
        self._map = mmap.mmap(-1, size + SIZE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        self._map.madvise(mmap.MADV_HUGEPAGE)
        whole = memoryview(self._map)
        address = ctypes.addressof(ctypes.c_char.from_buffer(self._map))
        skipped = -address % SIZE
        own, address = whole[skipped : skipped + size], address + skipped
        self._free = [Slot(own[at : at + SIZE], address + at) for at in range(0, size, SIZE)]
        self._lock = threading.Lock()
        self._locked: dict[int, int] = {}
        """Where what was page-locked by a call begins, and its bytes."""
        for slot in self._free:  # one at a time: meanwhile nobody maps anything
            _libc.madvise(slot.address, SIZE, _POPULATE_WRITE)  # a kernel before 5.14 gives memory when it is used

    @contextmanager
    def lent(self, count: int) -> Iterator[list[Slot]]:
        """So many, page-locked, as long as the block takes. A context is current.

        Raises: DriverError; ValueError: there are not so many.
        """
        with self._lock:
            if count > len(self._free):
                raise ValueError(f"{count} slots were asked for, and {len(self._free)} of {self.count} are there")
            self._page_lock(self._free[:count])
            taken, self._free = self._free[:count], self._free[count:]
        try:
            yield taken
        finally:
            with self._lock:
                self._free = taken + self._free  # whoever comes next page-locks nothing

    def _page_lock(self, slots: Sequence[Slot]) -> None:
        """Those that are not yet: they have never been lent, so they are still one after the other."""
        new = [slot.address for slot in slots if not self._is_locked(slot)]
        if new:
            size = len(new) * SIZE
            call("cuMemHostRegister", new[0], size, bindings().CU_MEMHOSTREGISTER_PORTABLE)
            self._locked[new[0]] = size

    def _is_locked(self, slot: Slot) -> bool:
        return any(begin <= slot.address < begin + size for begin, size in self._locked.items())

    def close(self) -> None:
        """They are page-locked no longer. Raises: DriverError."""
        with self._lock:
            while self._locked:
                call("cuMemHostUnregister", self._locked.popitem()[0])


@contextmanager
def page_locked(count: int, given: Slots | None = None) -> Iterator[list[Slot]]:
    """So many slots, of `given` where it is, as long as the block takes. A context is current.

    Raises: DriverError; ValueError: `given` has not so many.
    """
    slots = given if given is not None else Slots(count)
    try:
        with slots.lent(count) as lent:
            yield lent
    finally:
        if given is None:
            slots.close()
