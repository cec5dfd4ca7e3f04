"""Removing the artifacts of an identity that nothing uses any more: what the janitor does."""

import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path

import msgspec

from vernal_worker.store import collect, fs, layout
from vernal_worker.store.heartbeat import beats
from vernal_worker.store.layout import Key
from vernal_worker.store.reading import disuse, readers, users
from vernal_worker.store.staging import retire

_POLL = 0.5

_LATE = 60.0
"""How much later than this machine's clock says the storage's may say that the grace period is over (seconds)."""


class Removal(msgspec.Struct, frozen=True):
    """What became of it: `bytes` came back; `kept` says which directory stays and why; `busy` says who was still at
    work when patience ended: to be tried again."""

    bytes: int = 0
    kept: tuple[str, ...] = ()
    busy: tuple[str, ...] = ()


def remove(
    root: Path, identity: str, host: str, user: str, *, grace: float, patience: float, sleep: Callable[[float], None]
) -> Removal:
    """See `Store.remove`.

    Raises:
        OSError: the storage cannot be read or written.
        ValueError: not a digest.
    """
    end = time.monotonic() + patience + grace
    directories, kept = layout.key_directories(root, identity, host), []
    while (busy := _creators(root, directories)) and time.monotonic() < end:
        sleep(_POLL)
    if busy:
        return Removal(busy=tuple(busy))
    going = []
    for directory in directories:
        disuse(directory, user)
        if others := users(directory) or _taken_back(root, directory):
            kept.append(f"{directory.relative_to(root)}: used by {', '.join(others)}")
        else:
            going.append(directory)
    freed = 0
    while True:
        now = collect.storage_time(root)
        for directory in going:
            for find in list(collect.generations(directory, now, now - grace, mark=root)):
                if find.still():
                    freed += sum(info.st_size for info in find.files if info.st_nlink == 1)
                    collect.delete(root, find.path)
        left = [place for directory in going for place in _generations(directory)]
        current = [place for place in left if layout.pointer(place.parent) == place.name]
        waiting = [place for place in left if place not in current]
        busy = [f"{who} reads {place.name}" for place in waiting for who in readers(place.parent, place.name, now)]
        late = time.monotonic() - end
        if not waiting or (late >= 0 and busy) or late >= _LATE:
            break
        sleep(_POLL)
    kept += [f"{place.relative_to(root)}: published meanwhile" for place in current]
    if waiting and not busy:
        busy = ["the storage's clock stands still"]
    if not busy:
        for directory in going:
            collect.fold(directory)
    return Removal(freed, tuple(kept), tuple(busy))


def _taken_back(root: Path, directory: Path) -> list[str]:
    """Take the pointer away; the users for whom it was put back, because they came at this moment."""
    current = layout.pointer(directory)
    if current is not None:
        aside = directory / f"{fs.NEW_LINK}{fs.unique()}"
        with suppress(FileNotFoundError):
            (directory / layout.CURRENT).rename(aside)
            current = aside.readlink().name
            aside.unlink()
            fs.sync(directory)
        if others := users(directory):
            with suppress(FileExistsError):
                (directory / layout.CURRENT).symlink_to(current)
                fs.sync(directory)
            return others
    for place in _generations(directory):
        if not (directory / layout.RETIRED / place.name).exists() or place.name == current:
            retire(Key(root, directory.parent.name, directory.name), place.name)
    return []


def _generations(directory: Path) -> list[Path]:
    return [path for path in directory.glob("*") if layout.is_generation(path.name)]


def _creators(root: Path, directories: Iterable[Path]) -> list[str]:
    now = collect.storage_time(root)
    found = []
    for directory in directories:
        # Of any host: what a checkpoint needs of one is known only when it is made, and then names its directory.
        for path in (root / layout.LEASES).glob(f"{directory.parent.name}-*.beat"):
            if beats(path, now):
                found.append(f"a worker makes a checkpoint: {path.relative_to(root)}")
    return sorted(set(found))
