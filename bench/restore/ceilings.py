"""What the machine can do, measured in the same run as everything else. Bytes a second."""

from __future__ import annotations

import mmap
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path

CHUNK = 8 << 20


def disk_read(path: Path, threads: int = 16) -> float:
    """Read a file past the page cache (O_DIRECT)."""
    return _read(path, os.O_RDONLY | os.O_DIRECT, threads)


def cache_read(path: Path, threads: int = 16) -> float:
    """Read a file that is in the page cache."""
    _read(path, os.O_RDONLY, threads)
    return _read(path, os.O_RDONLY, threads)


def disk_write(path: Path, size: int = 8 << 30, threads: int = 16) -> float:
    """Write a new file past the page cache and bring it to stable storage; it is removed."""
    fd = os.open(path, os.O_CREAT | os.O_WRONLY | os.O_DIRECT, 0o600)
    block = mmap.mmap(-1, CHUNK)
    block.write(os.urandom(CHUNK))
    try:
        began = time.monotonic()
        _each(range(0, size, CHUNK), lambda offset: os.pwritev(fd, [block], offset), threads)
        os.fsync(fd)
        return size / (time.monotonic() - began)
    finally:
        os.close(fd)
        path.unlink()


def drop_caches() -> None:
    """Empty the page cache of the whole machine. Needs root."""
    os.sync()
    Path("/proc/sys/vm/drop_caches").write_text("3")


def _read(path: Path, flags: int, threads: int) -> float:
    size = path.stat().st_size // CHUNK * CHUNK
    fd = os.open(path, flags)
    local = threading.local()

    def work(offset: int) -> None:
        if not hasattr(local, "buffer"):
            local.buffer = mmap.mmap(-1, CHUNK)
        os.preadv(fd, [local.buffer], offset)

    try:
        began = time.monotonic()
        _each(range(0, size, CHUNK), work, threads)
        return size / (time.monotonic() - began)
    finally:
        os.close(fd)


def _each(offsets: range, work: Callable[[int], object], threads: int) -> None:
    lock, todo = threading.Lock(), iter(offsets)

    def run() -> None:
        while True:
            with lock:
                offset = next(todo, None)
            if offset is None:
                return
            work(offset)

    running = [threading.Thread(target=run) for _ in range(threads)]
    for thread in running:
        thread.start()
    for thread in running:
        thread.join()
