"""What nobody can need, found by reachability, and deleted.

Three things keep a generation: the pointer, a reader's lease that beats, and the grace period since it ceased to be
current. What has another name than the store gives is not the store's and stays: another store may lie below this one.
All times are the storage's.
"""

import os
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from vernal_worker.store import contents, fs, layout
from vernal_worker.store.blobs import TEMPORARY
from vernal_worker.store.heartbeat import beats
from vernal_worker.store.layout import Key
from vernal_worker.store.reading import readers
from vernal_worker.store.staging import retire


@dataclass(frozen=True)
class Garbage:
    """`path`, relative to the root, can go because of `why`; `bytes` come back."""

    path: str
    why: str
    bytes: int


@dataclass
class _Find:
    path: Path
    why: str
    files: list[os.stat_result] = field(default_factory=list)
    still: Callable[[], bool] = lambda: True  # asked once more just before it is deleted


def gc(root: Path, grace: float, *, dry: bool = False) -> list[Garbage]:
    """See `Store.gc`.

    Raises:
        OSError: the storage cannot be read or written.
    """
    now = storage_time(root)
    found = [
        find
        for directory in layout.key_directories(root)
        for find in generations(directory, now, now - grace, mark=None if dry else root)
    ]
    found += [
        *_old_stagings(root, now - grace),
        *_old_leases(root, now - grace),
        *_old_contents(root, now, grace),
    ]
    links = Counter((info.st_dev, info.st_ino) for find in found for info in find.files)
    found += _blobs(root, now - grace, links)
    freed = _freed(found)
    for find in found:
        if not dry and find.still():
            delete(root, find.path)
    if not dry:
        for directory in layout.key_directories(root):
            tidy(directory, now - grace)
    return [Garbage(str(f.path.relative_to(root)), f.why, b) for f, b in zip(found, freed, strict=True)]


def storage_time(root: Path) -> float:
    fs.make_directory(root / layout.STAGING, root)
    return fs.clock(root / layout.STAGING)


def delete(root: Path, path: Path) -> None:
    """Remove a file or a directory, the latter at once for whoever looks: it is moved to the stagings first."""
    if not path.is_dir() or path.is_symlink():
        path.unlink(missing_ok=True)
        return
    aside = path if path.parent.name == layout.STAGING else root / layout.STAGING / fs.unique()
    if aside != path:
        fs.make_directory(aside.parent, root)
        try:
            path.rename(aside)
        except FileNotFoundError:
            return  # another collector was here
    fs.remove_tree(aside)


def generations(directory: Path, now: float, before: float, *, mark: Path | None) -> Iterator[_Find]:
    """Those of a key's directory that have not been current since `before` and that nobody reads, with what belongs to
    them. Others that are not current are marked, so that a later run knows, if `mark` (the root) is given."""
    current = layout.pointer(directory)
    places = {path.name: path for path in _listing(directory)}
    for name, place in places.items():
        if name.startswith(fs.NEW_LINK) and _older(place, before):
            yield _Find(place, "a pointer that was never set")
        if not layout.is_generation(name):
            continue
        marker = directory / layout.RETIRED / name
        if name == current:  # marked between its rename and the pointer's
            if mark is not None:
                marker.unlink(missing_ok=True)
            continue
        try:
            since = marker.stat().st_mtime
        except FileNotFoundError:
            if mark is not None:
                retire(Key(mark, directory.parent.name, directory.name), name)
            continue
        if since <= before and not readers(directory, name, now):

            def still(name: str = name) -> bool:
                return layout.pointer(directory) != name and not readers(directory, name, now)

            yield _Find(place, f"not current for {now - since:.0f} s and read by nobody", files(place), still)
            for path in (directory / layout.FAILURES / name, marker):
                if path.exists():
                    gone = lambda place=place: not place.exists()  # noqa: E731
                    yield _Find(path, "its generation goes", files(path), gone)
    for kind in (layout.FAILURES, layout.RETIRED):
        for path in _listing(directory / kind):
            if layout.is_generation(path.name) and path.name not in places and _older(path, before):
                yield _Find(path, "its generation is gone")
    for path in _listing(directory / layout.READERS):
        if _older(path, before) and not beats(path, now):
            yield _Find(path, "a reader that is gone")


def sweep(root: Path, grace: float) -> None:
    """Remove stagings that nobody has written to for `grace` seconds: what killed workers left takes as much room as a
    checkpoint, and no janitor comes before a checkpoint goes.

    Raises:
        OSError: the storage cannot be read or written.
    """
    for find in list(_old_stagings(root, storage_time(root) - grace)):
        delete(root, find.path)


def tidy(directory: Path, before: float) -> None:
    """Remove a key's directory in which there is no generation and nothing newer than `before`."""
    with suppress(FileNotFoundError):
        if not _has_generation(directory) and fs.newest(directory) < before:
            fs.remove_tree(directory / layout.USERS)
            fold(directory)


def fold(directory: Path) -> None:
    """Remove a key's directory in which there is no generation, user or reader. Directories go only when they are
    empty, so that whoever puts something into them at this moment wins."""
    if _has_generation(directory):
        return
    for name in (layout.FAILURES, layout.RETIRED):
        fs.remove_tree(directory / name)
    for path in _listing(directory):
        if path.is_file() and not path.is_symlink():
            path.unlink(missing_ok=True)  # quarantine.json
    with suppress(OSError):
        for name in (layout.USERS, layout.READERS):
            with suppress(FileNotFoundError):
                (directory / name).rmdir()
        directory.rmdir()
        directory.parent.rmdir()


def _has_generation(directory: Path) -> bool:
    return any(layout.is_generation(p.name) or p.name == layout.CURRENT for p in _listing(directory))


def _old_stagings(root: Path, before: float) -> Iterator[_Find]:
    for path in _listing(root / layout.STAGING):
        with suppress(FileNotFoundError):
            ours = layout.is_unique(path.name.removeprefix(fs.CLOCK))
            if ours and fs.newest(path) < before:
                yield _Find(path, "nobody has written to this staging", files(path))


def _old_leases(root: Path, before: float) -> Iterator[_Find]:
    """Leases without a heartbeat since `before`, and what a killed worker left beside them."""
    times = {}
    for path in _listing(root / layout.LEASES):
        with suppress(FileNotFoundError):
            times[path] = path.lstat().st_mtime
    for path, time in times.items():
        alive = max(t for p, t in times.items() if p.name.startswith(path.name))
        if max(time, alive) < before and layout.is_digest(path.name.lstrip(".")[:64]):
            yield _Find(path, "a lease without a heartbeat")


def _old_contents(root: Path, now: float, grace: float) -> Iterator[_Find]:
    """Records of files that are long gone, most of them: to make one anew costs the reading of a file."""
    for path in _listing(root / layout.CONTENTS):
        half = path.name.startswith(TEMPORARY)
        if path.is_file() and _older(path, now - (grace if half else contents.KEPT_SECONDS)):
            yield _Find(path, "half a record" if half else "a record that is old", files(path))


def _blobs(root: Path, before: float, going: Counter[tuple[int, int]]) -> Iterator[_Find]:
    """Those that no artifact has, or none that stays. They need no grace: each artifact has links of its own, so that
    to lose the blob's name costs at most that the next one is not shared."""
    for path in _listing(root / layout.BLOBS):
        with suppress(FileNotFoundError):
            info = path.lstat()
            ours = path.name.startswith(TEMPORARY) and layout.is_unique(path.name.removeprefix(TEMPORARY))
            if ours and info.st_ctime < before:
                going[info.st_dev, info.st_ino] += 1
                yield _Find(path, "left by a publisher that was killed", [info])
    for path in _listing(root / layout.BLOBS):
        with suppress(FileNotFoundError):
            info = path.lstat()
            if layout.is_digest(path.name) and info.st_nlink - going[info.st_dev, info.st_ino] <= 1:

                def still(path: Path = path) -> bool:
                    with suppress(FileNotFoundError):
                        return path.lstat().st_nlink == 1
                    return False

                yield _Find(path, "no artifact that stays has this file", [info], still)


def _freed(found: list[_Find]) -> list[int]:
    """Bytes that come back with each, in order: a file's, once its last link goes."""
    gone: Counter[tuple[int, int]] = Counter()
    freed = []
    for find in found:
        total = 0
        for info in find.files:
            gone[info.st_dev, info.st_ino] += 1
            total += info.st_size if gone[info.st_dev, info.st_ino] == info.st_nlink else 0
        freed.append(total)
    return freed


def files(directory: Path) -> list[os.stat_result]:
    """What is known of every file at and below it."""
    found = []
    for parent, _, files in os.walk(directory):
        for name in files:
            with suppress(FileNotFoundError):
                found.append(Path(parent, name).lstat())
    return found


def _older(path: Path, before: float) -> bool:
    with suppress(FileNotFoundError):
        return path.lstat().st_mtime < before
    return False


def _listing(directory: Path) -> list[Path]:
    try:
        return sorted(directory.iterdir())
    except (FileNotFoundError, NotADirectoryError):
        return []
