"""What the store asks of a file system, tried out on the directory itself."""

import os
from collections.abc import Callable
from pathlib import Path

from vernal_worker.check import Check
from vernal_worker.store import fs
from vernal_worker.store.store import SETTLED

_NETWORK_CACHE = ("actimeo", "acregmax", "acdirmax")


def checks(root: Path) -> list[Check]:
    """Each demand, in a directory of its own that is gone afterwards. Nothing of a store that is there is touched."""
    place = root / f".doctor-{fs.unique()}"
    try:
        place.mkdir(mode=0o700)
    except OSError as error:
        remedy = "mount the claim there, writable for the worker's user (root; see root_squash in docs/storage.md)"
        return [Check("directory", False, f"{place}: {error.strerror}", remedy)]
    try:
        found = [_try(place, *demand) for demand in _DEMANDS]
    finally:
        fs.remove_tree(place)
    return [*found, attributes(*fs.mount(root))]


def attributes(kind: str, options: dict[str, str]) -> Check:
    """How long the mount may remember what it has seen."""
    longest = max((int(options[name]) for name in _NETWORK_CACHE if options.get(name, "").isdigit()), default=60)
    if not kind.startswith("nfs"):
        return Check("actimeo", True, f"{kind or 'this file system'} has no such option")
    return Check(
        "actimeo",
        longest <= SETTLED / 2,
        f"{kind} remembers names and times for up to {longest} s",
        f"mount it with actimeo={SETTLED / 2:.0f} or less: the collector counts on it",
    )


def _try(place: Path, name: str, demand: Callable[[Path], str], remedy: str) -> Check:
    directory = place / name.replace(" ", "-")
    try:
        directory.mkdir()
        return Check(name, True, demand(directory))
    except (OSError, AssertionError) as error:
        return Check(name, False, str(error) or type(error).__name__, remedy)


def _need(holds: bool, otherwise: str) -> None:
    if not holds:
        raise AssertionError(otherwise)


def _rename(place: Path) -> str:
    (place / "one").mkdir()
    (place / "one" / "file").touch()
    (place / "one").rename(place / "two")
    fs.swap_link(place / "current", "one")
    fs.swap_link(place / "current", "two")
    _need((place / "current").readlink().name == "two", "a symbolic link was not replaced")
    return "directories move whole, symbolic links are replaced"


def _exclusive(place: Path) -> str:
    fs.write_new(place / "file", b"first")
    try:
        fs.write_new(place / "file", b"second")
    except FileExistsError:
        return "a second maker is refused"
    raise AssertionError("two makers of one file both succeeded")


def _links(place: Path) -> str:
    for name in ("artifact", "blobs"):
        (place / name).mkdir()
    file, blob = place / "artifact" / "file", place / "blobs" / "blob"
    fs.write_new(file, b"x")
    os.link(file, blob)
    _need(file.stat().st_nlink == 2 and file.samefile(blob), "the links of a file are not counted")
    file.unlink()
    _need(blob.stat().st_nlink == 1 and blob.read_bytes() == b"x", "a file went with one of its two names")
    return "across directories, and counted"


def _sync(place: Path) -> str:
    fs.write_new(place / "file", b"x")
    fs.sync(place / "file")
    fs.sync(place)
    return "of files and directories"


def _owner(place: Path) -> str:
    file = place / "file"
    fs.write_new(file, b"x")
    file.chmod(0o600)
    place.chmod(0o700)
    info = file.stat()
    _need(info.st_mode & 0o777 == 0o600, f"mode {info.st_mode & 0o777:o} instead of 600: others could read memory")
    _need(file.read_bytes() == b"x", "what was written cannot be read")
    squashed = "" if info.st_uid == os.geteuid() else f"; {os.geteuid()} is {info.st_uid} there (root_squash)"
    return f"files are private{squashed}"


def _time(place: Path) -> str:
    file = place / "file"
    fs.write_new(file, b"")
    os.utime(file, (1, 1))
    with file.open("r+b", buffering=0) as opened:
        opened.write(b"x")
        os.fsync(opened.fileno())
    _need(file.stat().st_mtime > 1, "a write does not change a file's time")
    return "writes change a file's time"


_DEMANDS: tuple[tuple[str, Callable[[Path], str], str], ...] = (
    ("rename", _rename, "the store needs rename(2) as POSIX has it: use NFSv4, CephFS, Lustre or a local file system"),
    ("O_EXCL", _exclusive, "mount NFS as version 3 or newer"),
    ("hard links", _links, "the store needs link(2): SMB and FUSE mounts of buckets have none, NFS, CephFS, Lustre do"),
    ("fsync", _sync, "the store must know that bytes are on stable storage"),
    ("private files", _owner, "export it so that the worker's user, squashed or not, owns what it makes"),
    ("time", _time, "mount it so that the server sets times; leases are told alive by them"),
)
