"""Who needs an artifact: readers, for as long as a thaw takes, and users, for as long as their checkpoint object lives.

Both are files beside the generations. Whoever wants an artifact writes them and looks at the pointer afterwards; the
collector takes the pointer away and looks at the files afterwards. So at least one of them sees the other, and gives
way: the reader starts cold, or the collector waits.
"""

import hashlib
from contextlib import suppress
from pathlib import Path
from typing import Self

from vernal_worker.store import fs, layout
from vernal_worker.store.errors import StoreError, Touch
from vernal_worker.store.heartbeat import Heartbeat, beats, note
from vernal_worker.store.layout import Key

_RELEASE_SECONDS = 5.0
"""For giving it back; the lease of a reader that is gone falls silent anyway."""


class Reading:
    """A held reader's lease on one generation, until `release`. A context manager."""

    def __init__(self, beat: Heartbeat, touch: Touch) -> None:
        self._beat, self._touch = beat, touch

    def release(self) -> None:
        """Give it back. Never raises; twice is fine."""
        if not self._beat.stopped:
            self._beat.stop()
            with suppress(StoreError):
                self._touch("find", lambda: self._beat.path.unlink(missing_ok=True), patience=_RELEASE_SECONDS)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()


def read(key: Key, generation: str, owner: str, ttl: float, touch: Touch) -> Reading:
    """Say that `owner` reads `generation` from now on. What the pointer says is to be looked at (again) afterwards.

    Raises:
        OSError: the storage cannot be written.
    """
    directory = key.directory / layout.READERS
    fs.make_directory(directory, key.root)
    return Reading(Heartbeat(directory / f"{generation}.{fs.unique()}", ttl, owner), touch)


def readers(directory: Path, generation: str, now: float) -> list[str]:
    """The owners of the leases on a generation in a key's directory that beat."""
    found = sorted((directory / layout.READERS).glob(f"{generation}.*"))
    return [note(path) for path in found if beats(path, now)]


def use(key: Key, user: str) -> None:
    """Note that `user` has a claim on the artifacts of this key until `disuse`.

    Raises:
        OSError: the storage cannot be written.
    """
    directory = key.directory / layout.USERS
    fs.make_directory(directory, key.root)
    with suppress(FileExistsError):
        fs.write_new(directory / _name(user), user.encode())


def disuse(directory: Path, user: str) -> None:
    """Raises: OSError: the storage cannot be written."""
    (directory / layout.USERS / _name(user)).unlink(missing_ok=True)


def users(directory: Path) -> list[str]:
    """Who has a claim on the artifacts in a key's directory."""
    found = []
    for path in sorted((directory / layout.USERS).glob("*")):
        with suppress(FileNotFoundError):
            found.append(path.read_text(errors="replace") or path.name)
    return found


def _name(user: str) -> str:
    return hashlib.sha256(user.encode()).hexdigest()[:32]
