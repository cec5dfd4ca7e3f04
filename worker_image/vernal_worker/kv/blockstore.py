"""The directory of block files on shared storage.

    <root>/<fingerprint>/layout.json                what the fingerprint is made of, for people
    <root>/<fingerprint>/<first 2 of key>/<key>.kv  one block of one rank (each rank has a fingerprint of its own)
    <root>/eviction.json, <root>/leases/            see `vernal_worker.kv.sizelimit`

Any number of workers read, write and evict at the same time without a lock: files appear by rename, a file's content
under one name is always the same, and a reader whose file is evicted has it open still or sees it missing.
"""

import errno
import os
import time
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from vernal_worker.kv import blockfile
from vernal_worker.kv.blockfile import REWRITE, SUFFIX, WRONG, BlockError, Failure, Files, Label

LAYOUT_NAME = "layout.json"
TOUCH_SECONDS = 300.0
"""A block's modification time says when it was last used, this roughly: every load would cost a write otherwise."""

_MOST_TO_REWRITE = 10_000  # keys: an outage must not fill memory
_MOST_KNOWN = 65_536  # keys: 10 MB

_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


class Saved(StrEnum):
    """What became of a save. The value is the `outcome` label of the metric."""

    WRITTEN = "written"
    PRESENT = "present"  # another worker was first
    FULL = "full"
    FAILED = "failed"
    DROPPED = "dropped"  # no room to hold it until storage takes it
    SUPPRESSED = "suppressed"  # computed in a step that also had a failed load: not to be trusted


@dataclass(frozen=True)
class Layout:
    """What all blocks of one rank have in common.

    Attributes:
        fingerprint: 32 bytes; see `vernal_worker.kv.fingerprint`.
        tokens: number of tokens in a block.
        payload_bytes: bytes of a block, all layers together.
    """

    fingerprint: bytes
    tokens: int
    payload_bytes: int


class BlockStore:
    """Blocks of one layout under `root`. Holds no file open between calls. Methods may be called from any thread."""

    def __init__(self, root: Path, layout: Layout, files: Files | None = None) -> None:
        self.root = root
        self.layout = layout
        self._directory = root / layout.fingerprint.hex()
        self._prefix = f"{self._directory}/"
        self._files = files or Files()
        self._to_rewrite: set[bytes] = set()
        self._due: dict[bytes, float] = {}  # by when storage is to be asked how old a block is

    def path(self, key: bytes) -> Path:
        return Path(self._path(key))

    def _path(self, key: bytes) -> str:
        """As text: with thousands of blocks a second it matters what a Path costs."""
        name = key.hex()
        return f"{self._prefix}{name[:2]}/{name}{SUFFIX}"

    def describe(self, text: bytes) -> None:
        """Leave `text` as layout.json, for people who look at the store.

        Raises:
            OSError: the store cannot be written.
        """
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        path = self._directory / LAYOUT_NAME
        if not path.exists():
            blockfile.publish(path, text)

    def contains(self, key: bytes) -> bool:
        """Whether there is such a block, as far as the storage says; whether it is good, only `read` can tell."""
        try:
            return os.stat(self._path(key)).st_size > 0  # noqa: PTH116 (thousands a second)
        except OSError:
            return False

    def read(self, key: bytes, into: memoryview) -> None:
        """As `fetch`, and `used`."""
        self.fetch(key, into)
        self.used(key)

    def fetch(self, key: bytes, into: memoryview, *, verify: bool = True) -> bytes:
        """Read and verify a block. A file that is proved wrong, twice, is removed; one that could not be read stays,
        for others may.

        Args:
            verify: False leaves the block's bytes to the caller; see `blockfile.read`.

        Returns: the digest that `into` must have.

        Raises:
            BlockError: `into` does not hold the block.
        """
        path = self._path(key)
        try:
            return blockfile.read(path, self._label(key), into, self._files, verify=verify)
        except BlockError as error:
            if error.failure in WRONG:
                self._remove_wrong(path, key, into)
            else:
                self.doubt(key, error.failure)
            raise

    def doubt(self, key: bytes, failure: Failure) -> None:
        """The block could not be read: this object's next `write` of it replaces its file, if that is still there."""
        if failure in REWRITE and len(self._to_rewrite) < _MOST_TO_REWRITE:
            self._to_rewrite.add(key)

    def doubts(self, key: bytes) -> bool:
        return key in self._to_rewrite

    def used(self, key: bytes) -> None:
        """Have eviction know of a load, roughly. Storage is asked for a block's time when that may be old."""
        now = time.time()
        if now < self._due.get(key, 0.0):
            return
        if len(self._due) >= _MOST_KNOWN:
            self._due.clear()
        path = self._path(key)
        try:
            modified = os.lstat(path).st_mtime
            if now - modified > TOUCH_SECONDS:
                os.utime(path)
                modified = now
        except OSError:  # read-only for us, or just evicted
            modified = now
        self._due[key] = modified + TOUCH_SECONDS

    def write(self, key: bytes, payload: memoryview, replace: bool = False) -> Saved:
        """Write a block, unless it is there. `replace`, or where this object found it unreadable, all the same.

        Raises:
            OSError: the storage failed, other than by being full.
        """
        path = self.path(key)
        if not replace and key not in self._to_rewrite and self.contains(key):
            return Saved.PRESENT
        try:
            try:
                blockfile.write(path, self._label(key), payload, self._files)
            except FileNotFoundError:  # the directory is made when it is needed first
                path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
                blockfile.write(path, self._label(key), payload, self._files)
        except OSError as error:
            if error.errno in _FULL:
                return Saved.FULL
            raise
        self.written(key)
        return Saved.WRITTEN

    def written(self, key: bytes) -> None:
        """Its file is good again."""
        self._to_rewrite.discard(key)

    def _remove_wrong(self, path: str, key: bytes, into: memoryview) -> None:
        """Remove a file that was found wrong, if it still is; not the good one that may be in its place since. Only
        here is it asked which file that is: a read that succeeds costs no more than it must."""
        status = _status(path)
        try:
            blockfile.read(path, self._label(key), into, self._files)
        except BlockError as error:
            if error.failure in WRONG:
                _remove(path, status)

    def _label(self, key: bytes) -> Label:
        return Label(self.layout.fingerprint, key, self.layout.tokens, self.layout.payload_bytes)


def _status(path: str) -> os.stat_result | None:
    try:
        return os.lstat(path)
    except OSError:
        return None


def _remove(path: str, status: os.stat_result | None) -> None:
    """Remove the file that had `status`; not the good one that may be in its place since."""
    now = _status(path)
    if status is None or now is None or (now.st_ino, now.st_mtime_ns) != (status.st_ino, status.st_mtime_ns):
        return
    try:
        os.unlink(path)  # noqa: PTH108 (text, as above)
    except OSError:
        pass  # read-only for us, or somebody else was faster
