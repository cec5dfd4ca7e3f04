"""What of a file the kernel has in memory."""

import os

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
