"""Writing files to the disk while others are still at work on them, so that fsync(2) later finds little to do."""

import ctypes
import os
import threading
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

_INTERVAL = 0.1
_SYNC_FILE_RANGE_WRITE = 2
_Function = Callable[[int, ctypes.c_int64, ctypes.c_int64, int], int]
_sync_file_range: _Function | None = getattr(ctypes.CDLL(None), "sync_file_range", None)


@contextmanager
def write_back(directory: Path, skip: Collection[Path] = ()) -> Iterator[None]:
    """For as long as the block takes, let the kernel write what is new in the files below `directory`.

    A thread of its own asks for it, because who asks waits while the disk has enough to do. It is not waited for at the
    end. Nothing happens where the system has no sync_file_range(2); errors are left to whoever calls fsync(2).

    Args:
        skip: directories whose files are left to the kernel, e.g. because they will be replaced.
    """
    done = threading.Event()
    if _sync_file_range is not None:
        threading.Thread(
            target=_run, args=[directory, frozenset(skip), _sync_file_range, done], name="write-back", daemon=True
        ).start()
    try:
        yield
    finally:
        done.set()


def _run(directory: Path, skip: Collection[Path], sync_file_range: _Function, done: threading.Event) -> None:
    while not done.wait(_INTERVAL):
        for parent, directories, files in os.walk(directory):
            directories[:] = [name for name in directories if Path(parent, name) not in skip]
            for name in files:
                if done.is_set():
                    return
                with suppress(OSError):
                    fd = os.open(Path(parent, name), os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
                    try:
                        sync_file_range(fd, ctypes.c_int64(0), ctypes.c_int64(0), _SYNC_FILE_RANGE_WRITE)
                    finally:
                        os.close(fd)
