"""Who holds what in a store: for people and, as JSON, for programs."""

import os
import re
from collections import defaultdict
from collections.abc import Collection, Sequence
from contextlib import suppress
from pathlib import Path

import msgspec

from vernal_worker.store import collect, layout
from vernal_worker.store.fs import newest
from vernal_worker.store.lease import holder
from vernal_worker.store.reading import readers, users

_KEY = re.compile(rf"[0-9a-f]{{64}}/[0-9a-f]{{{layout.HOST_DIGITS},64}}")


class GenerationUse(msgspec.Struct, frozen=True, rename="camel"):
    """`bytes`: of all files; `shared_bytes`: of those that another artifact has too."""

    identity: str
    host_tuple: str  # 16 hex digits
    generation: str
    current: bool
    bytes: int
    shared_bytes: int
    users: list[str]
    readers: list[str]


class StagingUse(msgspec.Struct, frozen=True, rename="camel"):
    name: str
    bytes: int
    silent_seconds: float  # since anything was written to it


class LeaseUse(msgspec.Struct, frozen=True, rename="camel"):
    name: str
    holder: str


class BlobUse(msgspec.Struct, frozen=True, rename="camel"):
    name: str
    bytes: int
    used_by: list[str]  # generations


class Usage(msgspec.Struct, frozen=True, rename="camel"):
    """`bytes` and `inodes`: what it takes in all, each file once."""

    bytes: int
    inodes: int
    artifacts: list[GenerationUse]
    blobs: list[BlobUse]
    stagings: list[StagingUse]
    leases: list[LeaseUse]


def look(root: Path, identity: str = "", host: str = "") -> Usage:
    """Of the whole store; artifacts only of this identity and host tuple, if given.

    Raises:
        OSError: the storage cannot be read.
        ValueError: not a digest.
    """
    now = collect.storage_time(root)
    having: defaultdict[tuple[int, int], list[str]] = defaultdict(list)
    generations = [
        (directory, place, collect.files(place))
        for directory in layout.key_directories(root)
        for place in sorted(directory.iterdir())
        if layout.is_generation(place.name)
    ]
    for _, place, files in generations:
        for info in files:
            having[info.st_dev, info.st_ino].append(place.name)
    wanted = layout.key_directories(root, identity, host)
    artifacts = [
        GenerationUse(
            identity=directory.parent.name,
            host_tuple=directory.name,
            generation=place.name,
            current=layout.pointer(directory) == place.name,
            bytes=sum(info.st_size for info in files),
            shared_bytes=sum(i.st_size for i in files if len(having[i.st_dev, i.st_ino]) > 1),
            users=users(directory),
            readers=readers(directory, place.name, now),
        )
        for directory, place, files in generations
        if directory in wanted
    ]
    blobs = []
    for path in _names(root / layout.BLOBS):
        with suppress(FileNotFoundError):
            info = path.lstat()
            blobs.append(BlobUse(path.name, info.st_size, having[info.st_dev, info.st_ino]))
    stagings = [
        StagingUse(path.name, sum(i.st_size for i in collect.files(path)), round(now - path.lstat().st_mtime, 1))
        for path in _names(root / layout.STAGING)
    ]
    leases = [
        LeaseUse(path.name, holder(path) or "nobody")
        for path in _names(root / layout.LEASES)
        if path.suffix != ".beat" and not path.name.startswith(".")
    ]
    total, inodes = size(root)
    return Usage(total, inodes, artifacts, blobs, stagings, leases)


def keys(text: str) -> list[str]:
    """Of artifacts, as janitors are told them: identity/host tuple, with commas between. No text, no keys.

    Raises:
        ValueError: something is none.
    """
    found = [key for key in text.split(",") if key]
    for key in found:
        if not _KEY.fullmatch(key):
            raise ValueError(f"{key!r} is no identity and host tuple (64 hex digits, a slash, 16 to 64)")
    return found


def orphans(root: Path, user: str, known: Collection[str], grace: float) -> list[GenerationUse]:
    """Generations that nobody but `user` uses, and that are of none of the `known` keys (identity/host tuple): nobody
    will let go of them. What was written to or read within `grace` seconds is left out: its checkpoint object may be on
    its way.

    Raises:
        OSError: the storage cannot be read.
    """
    now = collect.storage_time(root)
    keys = {key[: 64 + 1 + layout.HOST_DIGITS] for key in known}
    lost = [
        directory
        for directory in layout.key_directories(root)
        if f"{directory.parent.name}/{directory.name}" not in keys
        and users(directory) == [user]
        and newest(directory) < now - grace
    ]
    if not lost:
        return []
    names = {(directory.parent.name, directory.name) for directory in lost}
    return [use for use in look(root).artifacts if (use.identity, use.host_tuple) in names]


def size(root: Path) -> tuple[int, int]:
    """Bytes and inodes of everything below, each file once."""
    inodes: dict[tuple[int, int], int] = {}
    for parent, directories, files in os.walk(root):
        for name in (*directories, *files):
            with suppress(FileNotFoundError):
                info = Path(parent, name).lstat()
                inodes[info.st_dev, info.st_ino] = info.st_size if name in files else 0
    return sum(inodes.values()), len(inodes)


def text(usage: Usage) -> str:
    """For people."""
    lines = [f"{_mb(usage.bytes)} in {usage.inodes} inodes"]
    for a in usage.artifacts:
        state = "current" if a.current else "replaced, to be collected"
        lines.append(f"artifact {a.identity[:16]}/{a.host_tuple}/{a.generation}  {_mb(a.bytes)}  {state}")
        lines.append(
            f"  shared with others: {_mb(a.shared_bytes)}; used by {_list(a.users)}; read by {_list(a.readers)}"
        )
    lines += [f"blob {b.name[:16]}  {_mb(b.bytes)}  of {_list(b.used_by)}" for b in usage.blobs]
    lines += [f"staging {s.name}  {_mb(s.bytes)}  silent for {s.silent_seconds:.0f} s" for s in usage.stagings]
    lines += [f"lease {lease.name}  held by {lease.holder}" for lease in usage.leases]
    return "\n".join(lines)


def _names(directory: Path) -> Sequence[Path]:
    return [directory / name for name in sorted(layout.names(directory))]


def _list(names: Sequence[str]) -> str:
    return ", ".join(names) or "nobody"


def _mb(count: int) -> str:
    return f"{count / 1e6:.1f} MB"
