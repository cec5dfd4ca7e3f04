"""Files that are memory already: those of a tmpfs with huge pages, from which a GPU copies by itself.

Page-locking costs 0.03 s a GiB of huge pages and three to four times as much of small ones, for which copying to slots
that are page-locked already is faster. The driver does one at a time, those of all ranks: of 61 GiB for two GPUs the
last is page-locked after 3.7 s, where slots take 2.5.
"""

import ctypes
import os

from vernal_worker.checkpoint.cuda.driver import DriverError, bindings, call

MOST = 24 << 30
"""Bytes of all ranks: of more, slots are filled sooner. 15 GiB are there before CRIU and CUDA are done, either way."""

HUGE = 2 << 20
"""Bytes of a huge page, and of a file's place in memory a multiple."""

_TMPFS_MAGIC = 0x01021994  # linux/magic.h
_PROT_READ, _MAP_SHARED = 1, 1
_FAILED = ctypes.c_void_p(-1).value

_libc = ctypes.CDLL(None, use_errno=True)
_libc.mmap.restype = ctypes.c_void_p
_libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long]


def in_huge_pages(fd: int) -> bool:
    """Whether a file is in a tmpfs that gives huge pages. Of such a one the kernel says that a block has their size
    (`shmem_getattr`); mount options would not do, since a worker's cache is not in its mount table any more."""
    found = (ctypes.c_long * 32)()  # struct statfs, which begins with f_type
    return _libc.fstatfs(fd, found) == 0 and found[0] == _TMPFS_MAGIC and os.fstat(fd).st_blksize == HUGE


class Pinned:
    """A file in memory, page-locked by and by where somebody asks for it.

    It stays so until the process ends, which does not wait for the GPU: taking it back takes as long as the copies.
    """

    def __init__(self, fd: int) -> None:
        """Raises: OSError."""
        self._size = os.fstat(fd).st_size
        address = _libc.mmap(None, self._size, _PROT_READ, _MAP_SHARED, fd, 0)
        if address == _FAILED:
            code = ctypes.get_errno()
            raise OSError(code, os.strerror(code))
        self._address = int(address)

    def at(self, offset: int, length: int) -> int | None:
        """The address of these bytes, page-locked now; None if the driver refuses, or the file has not so many. Not to
        be asked for twice."""
        if offset + length > self._size:
            return None
        flags = bindings().CU_MEMHOSTREGISTER_READ_ONLY
        try:
            call("cuMemHostRegister", self._address + offset, length, flags)
        except DriverError:
            return None
        return self._address + offset
