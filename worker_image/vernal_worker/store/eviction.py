"""What a node cache keeps and what makes room: decided from what was found in it. Pure."""

from collections.abc import Collection, Iterable, Mapping
from typing import TypeVar

import msgspec

N = TypeVar("N")

BLOCK = 4096
"""What a file costs at least, and is rounded up to, on the file systems of nodes (bytes)."""

KEPT_FREE = 0.15
"""Part of the file system that stays free for others, whatever size the cache may have: a kubelet evicts pods when less
is left (`imagefs.available<15%`, `nodefs.available<10%` by default)."""


class Cached(msgspec.Struct, frozen=True):
    """A file in the cache. `bytes`: of disk; `used`: when it was last wanted, in seconds; `held`: somebody reads it
    now."""

    name: str
    bytes: int
    used: float
    held: bool = False


def on_disk(size: int) -> int:
    """The disk that a file of `size` bytes takes."""
    return -(-size // BLOCK) * BLOCK


def allowed(limit: int, used: int, free: int, total: int) -> int:
    """Bytes of disk that the cache may have, of which it has `used`: its `limit`, or less where the file system, with
    `free` of `total` bytes, would have too little left."""
    return max(0, min(limit, used + free - round(total * KEPT_FREE)))


def missing(wanted: Mapping[N, int], there: Mapping[N, int]) -> list[N]:
    """Which of the files (names and sizes) are not there as they should be, each once."""
    return [name for name, size in wanted.items() if there.get(name) != size]


def victims(files: Iterable[Cached], keep: Collection[str], needed: int, room: int) -> list[str] | None:
    """What goes so that `files` and `needed` more bytes are no more than `room`: the least recently used ones, and no
    more of them than needed. None, and nothing goes, if that is not enough.

    Args:
        keep: names of files that stay, besides those that are held.
    """
    known = list(files)
    excess = sum(file.bytes for file in known) + needed - room
    chosen: list[str] = []
    for file in sorted(known, key=lambda each: (each.used, each.name)):
        if excess <= 0:
            break
        if not file.held and file.name not in keep:
            chosen.append(file.name)
            excess -= file.bytes
    return chosen if excess <= 0 else None
