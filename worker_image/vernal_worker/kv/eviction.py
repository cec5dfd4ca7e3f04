"""Which blocks go when the store is too large: of each prompt its last ones first, of those the least recently used.

A block is of use only together with all that come before it in its prompt, and its name says which is the one before
(`vernal_worker.kv.keys`). So only a block that nothing is behind goes; with it, the one before it may be the next.
"""

import heapq
import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from vernal_worker.kv.blockfile import SUFFIX, TEMPORARY_SUFFIX
from vernal_worker.kv.blockstore import LAYOUT_NAME
from vernal_worker.kv.keys import TAG_BYTES
from vernal_worker.store import fs

LOW_WATER = 0.9
"""An eviction goes on until the store is at this part of the limit, so that not every save needs one."""

RECORD_NAME = "eviction.json"
"""What the last eviction found, at the root of the store."""

_ABANDONED_SECONDS = 3600.0  # a temporary file this old belongs to a writer that died
_BLOCK = 4096
_TAG_DIGITS = 2 * TAG_BYTES


def _temporary(stem: str) -> str:
    return rf"\.{stem}-[0-9a-f]{{16}}{re.escape(TEMPORARY_SUFFIX)}"


_LEVELS = (
    (re.compile(r"[0-9a-f]{64}"), re.compile(_temporary(re.escape(RECORD_NAME)))),
    (re.compile(r"[0-9a-f]{2}"), re.compile(_temporary(re.escape(LAYOUT_NAME)))),
    (None, re.compile(rf"[0-9a-f]{{64}}{re.escape(SUFFIX)}|" + _temporary("[0-9a-f]{16}"))),
)
"""Names of our folders and files, from the root down: of what else lies there nothing is counted or removed."""


@dataclass(frozen=True)
class Entry:
    """A file of the store. `used` is its modification time, in seconds since the epoch."""

    path: str
    bytes: int
    used: float

    @property
    def temporary(self) -> bool:
        return self.path.endswith(TEMPORARY_SUFFIX)

    @property
    def tag(self) -> str:
        """Of a block, which one it is in its layout."""
        layout, _, name = self.path.rsplit("/", 3)[1:]
        return f"{layout}/{name[:_TAG_DIGITS]}"

    @property
    def before(self) -> str:
        """Of a block, the tag of the one before it in the prompt."""
        layout, _, name = self.path.rsplit("/", 3)[1:]
        return f"{layout}/{name.removesuffix(SUFFIX)[-_TAG_DIGITS:]}"


@dataclass(frozen=True)
class Evicted:
    """`bytes_before` and `bytes_after` of the whole store; `blocks` removed."""

    bytes_before: int
    bytes_after: int
    blocks: int


def scan(root: Path) -> Iterator[Entry]:
    """All block files and temporary files of all layouts. What vanishes meanwhile is left out."""
    for entry in _ours(os.fspath(root), 0):
        try:
            status = entry.stat(follow_symlinks=False)
        except OSError:
            continue
        size = -(-status.st_size // _BLOCK) * _BLOCK
        yield Entry(entry.path, size, status.st_mtime)


def _ours(directory: str, level: int) -> Iterator[os.DirEntry[str]]:
    folders, files = _LEVELS[level]
    try:
        with os.scandir(directory) as entries:
            for entry in entries:
                if folders and folders.fullmatch(entry.name) and entry.is_dir(follow_symlinks=False):
                    yield from _ours(entry.path, level + 1)
                elif files.fullmatch(entry.name) and entry.is_file(follow_symlinks=False):
                    yield entry
    except OSError:
        return


def tails_first(blocks: Iterable[Entry]) -> Iterator[Entry]:
    """All blocks in the order in which they should go; at last those whose names lead round in circles or are there
    twice, which none of ours do, so that the limit holds whatever lies there."""
    left = {block.path: block for block in blocks}
    by_tag = {block.tag: block for block in left.values()}
    behind = Counter(block.before for block in by_tag.values() if block.before != block.tag)
    last = [(block.used, block.path, tag) for tag, block in by_tag.items() if not behind[tag]]
    heapq.heapify(last)
    while last:
        *_, tag = heapq.heappop(last)
        yield left.pop(by_tag[tag].path)
        before = by_tag[tag].before
        behind[before] -= 1
        if before in by_tag and behind[before] == 0:
            heapq.heappush(last, (by_tag[before].used, by_tag[before].path, before))
    yield from left.values()


def evict(root: Path, limit_bytes: int | None, go_on: Callable[[], bool] = lambda: True) -> Evicted:
    """Remove blocks until the store is at `LOW_WATER` of the limit, if it is above the limit.

    Args:
        limit_bytes: None means that the disk is full: free a tenth of what the store has.
        go_on: asked often; when it says False, what is not removed stays.
    """
    entries: list[Entry] = []
    for entry in scan(root):
        if not go_on():
            break
        entries.append(entry)
    total = before = sum(entry.bytes for entry in entries)
    target = int((before if limit_bytes is None else limit_bytes) * LOW_WATER)
    if limit_bytes is not None and before <= limit_bytes:
        target = before
    total -= sum(entry.bytes for entry in _abandoned(root, entries) if _remove(entry) is not None)
    blocks = 0
    for entry in tails_first(entry for entry in entries if not entry.temporary):
        if total <= target or not go_on():
            break
        removed = _remove(entry)
        blocks += removed is True
        total -= entry.bytes if removed is not None else 0
    return Evicted(before, total, blocks)


def _abandoned(root: Path, entries: Iterable[Entry]) -> list[Entry]:
    """Temporary files that nobody writes any more, by the storage's own clock."""
    temporary = [entry for entry in entries if entry.temporary]
    try:
        now = fs.clock(root) if temporary else 0.0
    except OSError:  # full, for example
        return []
    return [entry for entry in temporary if now - entry.used > _ABANDONED_SECONDS]


def _remove(entry: Entry) -> bool | None:
    """True: removed; False: it was gone; None: it is still there."""
    try:
        Path(entry.path).unlink()
    except FileNotFoundError:
        return False
    except OSError:
        return None
    return True
