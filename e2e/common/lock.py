"""One run at a time over a directory, as an advisory lock on a file beside it."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from common.progress import alive, say


@contextmanager
def locked(path: Path, purpose: str) -> Iterator[None]:
    """Hold `path` + ".lock" exclusively; tells the user when it has to wait for another run.

    `purpose` is what is done meanwhile, such as "building Kubernetes".
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = path.with_name(path.name + ".lock")
    while True:
        fd = os.open(lock, os.O_CREAT | os.O_RDWR, 0o600)
        try:
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                say(f"waiting for another run that does this now: {purpose} ({lock})")
                with alive("waiting"):
                    fcntl.flock(fd, fcntl.LOCK_EX)
            # Who holds the lock removes its file in the end: then ours is on nothing, and we try again.
            if lock.exists() and os.fstat(fd).st_ino == lock.stat().st_ino:
                try:
                    yield
                finally:
                    lock.unlink(missing_ok=True)
                return
        finally:
            os.close(fd)
