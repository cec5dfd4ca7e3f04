"""Writing files to the disk while there is other work to do."""

import ctypes

_SYNC_FILE_RANGE_WRITE = 2
_sync_file_range = getattr(ctypes.CDLL(None), "sync_file_range", None)


def begin_write_back(fd: int, offset: int = 0, length: int = 0) -> None:
    """Let the kernel start writing these bytes to the disk now, so that fsync(2) later finds little to do.

    `length`: 0 for all from `offset` on. Does nothing where the system has no sync_file_range(2).
    """
    if _sync_file_range is not None:
        _sync_file_range(fd, ctypes.c_int64(offset), ctypes.c_int64(length), _SYNC_FILE_RANGE_WRITE)
