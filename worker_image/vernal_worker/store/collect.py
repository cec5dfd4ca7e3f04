"""Deleting what nobody can need."""

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from vernal_worker.store import blobs, contents, fs, layout
from vernal_worker.store.layout import Key
from vernal_worker.store.staging import retire


def gc(root: Path, grace: float) -> list[str]:
    """See `Store.gc`.

    Raises:
        OSError: the storage cannot be read or written.
    """
    fs.make_directory(root / layout.STAGING, root)
    now = fs.clock(root / layout.STAGING)
    deleted = []
    for path in [
        *_old_generations(root, now - grace),
        *_old_stagings(root, now - grace),
        *_old_leases(root, now - grace),
        *blobs.unused(root, now - grace),
        *_old_contents(root, now, grace),
    ]:
        delete(root, path)
        deleted.append(str(path.relative_to(root)))
    return deleted


def delete(root: Path, path: Path) -> None:
    """Remove a file or a directory, the latter at once for whoever looks: it is moved to the stagings first."""
    if not path.is_dir() or path.is_symlink():
        path.unlink(missing_ok=True)
        return
    aside = path if path.parent.name == layout.STAGING else root / layout.STAGING / fs.unique()
    if aside != path:
        fs.make_directory(aside.parent, root)
        path.rename(aside)
    fs.remove_tree(aside)


def _old_generations(root: Path, before: float) -> Iterator[Path]:
    """Those that have not been current since `before`, with what belongs to them. Others that are not current are
    marked, so that a later run knows."""
    for directory in _listing(root / layout.ARTIFACTS, 2):
        key = Key(root, directory.parent.name, directory.name)
        current = layout.pointer(directory)
        for place in _listing(directory, 1):
            marker = directory / layout.RETIRED / place.name
            if place.name.startswith(fs.NEW_LINK) and place.lstat().st_mtime < before:
                yield place
            if not layout.is_generation(place.name):
                continue
            if place.name == current:  # marked between its rename and the pointer's
                marker.unlink(missing_ok=True)
                continue
            try:
                since = marker.stat().st_mtime
            except FileNotFoundError:
                retire(key, place.name)
                continue
            if since < before:
                yield place
                yield from (p for p in (key.failures(place.name), marker) if p.exists())


def _old_stagings(root: Path, before: float) -> Iterator[Path]:
    for path in _listing(root / layout.STAGING, 1):
        with suppress(FileNotFoundError):
            if fs.newest(path) < before:
                yield path


def _old_leases(root: Path, before: float) -> Iterator[Path]:
    """Leases without a heartbeat since `before`, and what a killed worker left beside them."""
    beats = {}
    for path in _listing(root / layout.LEASES, 1):
        with suppress(FileNotFoundError):
            beats[path] = path.stat().st_mtime
    for path, time in beats.items():
        alive = max(t for p, t in beats.items() if p.name.startswith(path.name))
        if max(time, alive) < before:
            yield path


def _old_contents(root: Path, now: float, grace: float) -> Iterator[Path]:
    """Records of files that are long gone, most of them: to make one anew costs the reading of a file."""
    for path in _listing(root / layout.CONTENTS, 1):
        with suppress(FileNotFoundError):
            if path.stat().st_mtime < now - (grace if path.name.startswith(".") else contents.KEPT_SECONDS):
                yield path


def _listing(directory: Path, depth: int) -> list[Path]:
    try:
        found = sorted(directory.iterdir())
    except (FileNotFoundError, NotADirectoryError):
        return []
    return found if depth == 1 else [path for below in found for path in _listing(below, depth - 1)]
