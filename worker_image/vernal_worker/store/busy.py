"""Directories that one worker of a node works in, each locked (flock(2)) by its owner until that one is dead."""

import fcntl
import os
from contextlib import suppress
from pathlib import Path

from vernal_contract.reasons import Reason

from vernal_worker.store import fs, layout
from vernal_worker.store.errors import StoreError

_TRIES = 16


def claim(busy: Path) -> tuple[Path, int]:
    """A new directory in `busy`, and the descriptor that has it locked.

    Raises:
        StoreError: stage cache: `STORE_UNAVAILABLE`: it vanishes each time.
        OSError: the disk cannot be written.
    """
    for _ in range(_TRIES):
        path = busy / fs.unique()
        path.mkdir(mode=0o700)
        lock = -1
        with suppress(FileNotFoundError, BlockingIOError):  # a sweep came before the lock
            lock = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if path.stat().st_ino == os.fstat(lock).st_ino:
                return path, lock
        if lock >= 0:
            os.close(lock)
    raise StoreError(Reason.STORE_UNAVAILABLE, "cache", f"{busy}: what is made there vanishes")


def sweep(busy: Path) -> None:
    """Remove what nobody has locked: its owner is dead, or has not come to lock it yet, and then makes another.

    Raises:
        OSError: the disk cannot be read.
    """
    for name in layout.names(busy):
        if not layout.is_unique(name):
            continue
        with suppress(FileNotFoundError, NotADirectoryError, BlockingIOError):
            lock = os.open(busy / name, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                fs.remove_tree(busy / name)
            finally:
                os.close(lock)
