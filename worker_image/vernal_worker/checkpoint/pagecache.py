"""What of a file the kernel has in memory, and shall have."""

import os

_AT_ONCE = 128 << 10
"""Bytes of one call: of more the kernel may read only what the device reads ahead (read_ahead_kb, 128 by default)."""

_probe = bytearray(1)


def cached(fd: int, offset: int) -> bool | None:
    """Whether the page cache holds the page at `offset`; None if the file system cannot tell. Nothing is read from the
    disk."""
    try:
        os.preadv(fd, [_probe], offset, os.RWF_NOWAIT)
    except BlockingIOError:
        return False
    except OSError:
        return None
    return True


def will_need(fd: int, start: int, size: int) -> None:
    """Let the kernel read, whatever is there already: one page that somebody has read says nothing of the next, and to
    ask costs nothing. Raises: OSError."""
    for offset in range(start, start + size, _AT_ONCE):
        os.posix_fadvise(fd, offset, min(_AT_ONCE, start + size - offset), os.POSIX_FADV_WILLNEED)
