"""From a bucket into a store, or to wherever else files are received."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from vernal_contract.config import Verify
from vernal_contract.reasons import Reason

from vernal_worker.bucket import pointer, publications
from vernal_worker.bucket.keys import Place
from vernal_worker.bucket.objects import Objects
from vernal_worker.bucket.publications import Publication
from vernal_worker.store import artifact as artifacts
from vernal_worker.store import blobs, fs, layout, manifest
from vernal_worker.store.artifact import Artifact
from vernal_worker.store.errors import StoreError, guard
from vernal_worker.store.layout import Key
from vernal_worker.store.manifest import FileEntry, Manifest
from vernal_worker.store.pieces import PIECE, Piece
from vernal_worker.store.receiving import receive
from vernal_worker.store.staging import retire

THREADS = 16
"""Requests at a time: one alone gets 50 to 100 MB/s from S3 (AWS's performance guidelines for S3)."""

TRIES = 3
"""For a piece that arrives with other bytes, or fewer, than it should have."""


@dataclass(frozen=True)
class Pulled:
    """`fetched`: the bytes that came from the bucket; the others of the artifact's were there."""

    artifact: Artifact
    fetched: int


class FromBucket:
    """The source (`store.receiving.Source`) of the pieces of a publication. Its errors: stage pull: `FILE_MISSING` (an
    object is not there), `DIGEST_MISMATCH` (it has other bytes, time and again), `OBJECT_STORE_UNAVAILABLE`.
    """

    tries = TRIES

    def __init__(self, objects: Objects, published: Publication, threads: int = THREADS) -> None:
        self._objects, self._published, self.threads = objects, published, threads

    def parts(self, piece: Piece, digest: str) -> Iterator[memoryview]:
        parts = self._objects.stream(self._published.objects[digest], "pull")
        if parts is None:
            raise self._error(Reason.FILE_MISSING, piece, digest, "is missing")
        return parts

    def damaged(self, piece: Piece, digest: str) -> StoreError:
        return self._error(Reason.DIGEST_MISMATCH, piece, digest, "has other bytes than were written")

    def _error(self, reason: Reason, piece: Piece, digest: str, what: str) -> StoreError:
        message = f"{self._objects.url}/{self._published.objects[digest]} ({piece}) {what}"
        return StoreError(reason, "pull", message, generation=self._published.manifest.generation)


class Allowed:
    """How long a transfer may take, told now and then how far it is."""

    def __init__(
        self,
        timeout: float | None,
        cancel: threading.Event | None,
        on_progress: Callable[[int, int], None] | None,
    ) -> None:
        """The time, in seconds, runs from now on; the others are those of `pull`."""
        self._timeout, self._cancel, self._on_progress = timeout, cancel, on_progress
        self._deadline = None if timeout is None else time.monotonic() + timeout

    def __call__(self, done: int, total: int) -> None:
        """Raises: StoreError: stage pull: `STORE_SLOW`, `THAW_GIVEN_UP`; what `on_progress` raises."""
        if self._on_progress is not None:
            self._on_progress(done, total)
        if self._cancel is not None and self._cancel.is_set():
            raise StoreError(Reason.THAW_GIVEN_UP, "pull", "cancelled")
        if self._deadline is not None and time.monotonic() > self._deadline:
            raise StoreError(Reason.STORE_SLOW, "pull", f"{done} of {total} bytes came in {self._timeout:g} s")


def pull(
    objects: Objects,
    root: Path,
    place: Place,
    *,
    signing_key: bytes | None = None,
    threads: int = THREADS,
    timeout: float | None = None,
    cancel: threading.Event | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> Pulled:
    """Make the bucket's current artifact of `place` current in the store under `root`, where nobody finds it before it
    is whole. Every byte that comes is compared with the manifest; what the store has is not fetched again, and is
    verified by who thaws it, as ever.

    Args:
        signing_key: the manifest must be signed with it; None to take any.
        threads: requests at a time.
        timeout: seconds after which it is given up.
        cancel: give up when set.
        on_progress: called now and then in the caller's thread with bytes done and in all.

    Raises:
        StoreError: stage pull: `NO_ARTIFACT`, `MANIFEST_MISSING`, `MANIFEST_INVALID`, `FORMAT_UNSUPPORTED`;
            `FILE_MISSING` (an object is not there), `DIGEST_MISMATCH` (it has other bytes, time and again); of the
            bucket `OBJECT_STORE_UNAVAILABLE`; of the store what `Store.stage` raises; `STORE_SLOW`, `THAW_GIVEN_UP`.
    """
    current = pointer.look(objects, place, "pull")
    if current is None or not current.publication:
        raise StoreError(Reason.NO_ARTIFACT, "pull", f"{objects.url}/{place.current}: no artifact is current")
    published = publications.load(objects, place, current.publication, "pull", signing_key)
    content = published.manifest
    key = Key(root, content.identity, content.host_tuple)
    with guard("pull"):
        root.stat()
        if (there := whole(key, content)) is not None:
            _make_current(key, content.generation)
            return Pulled(there, 0)
        staging = root / layout.STAGING / fs.unique()
        fs.make_directory(staging, root)
    try:
        with guard("pull"):
            missing = _missing(staging, root, content)
        total = sum(entry.size for entry in missing.values())
        allowed = Allowed(timeout, cancel, on_progress)
        allowed(0, total)
        with guard("pull"):
            source = FromBucket(objects, published, threads)
            receive(source, missing, tick=lambda done: allowed(done, total))
            for entry in content.files:
                if entry.size >= PIECE:
                    blobs.share(staging / entry.path, entry.size, entry.blake3, root)
            fs.write_new(staging / manifest.NAME, published.data)
            return Pulled(_move_in(staging, key, content), total)
    finally:
        with suppress(OSError):
            fs.remove_tree(staging)


def whole(key: Key, content: Manifest) -> Artifact | None:
    """The same artifact, if the store has it: its files are there with the right sizes."""
    with suppress(StoreError, FileNotFoundError):
        found = artifacts.load(key.directory / content.generation)
        if found.manifest == content:
            found.verify(Verify.SIZES)
            return found
    return None


def _missing(staging: Path, root: Path, content: Manifest) -> dict[Path, FileEntry]:
    """Make the directories, and the files that the store has; the others."""
    missing: dict[Path, FileEntry] = {}
    for entry in content.files:
        file = staging / entry.path
        for parent in reversed(file.relative_to(staging).parents[:-1]):
            (staging / parent).mkdir(mode=0o700, exist_ok=True)
        if entry.size < PIECE or not _linked(root, entry, file):
            missing[file] = entry
    return missing


def _linked(root: Path, entry: FileEntry, file: Path) -> bool:
    """Whether the store has a file of this content already, which `file` is now, too."""
    blob = blobs.path(root, entry.size, entry.blake3)
    try:
        if blob.stat().st_size != entry.size:
            return False
        fs.link(blob, file)
    except OSError:
        return False
    return True


def _move_in(staging: Path, key: Key, content: Manifest) -> Artifact:
    place = key.directory / content.generation
    while True:
        fs.make_directory(key.directory, key.root)
        try:
            staging.rename(place)
            break
        except FileNotFoundError:  # the collector found the directory empty
            continue
        except OSError:
            if (other := whole(key, content)) is not None:  # somebody was faster
                _make_current(key, content.generation)
                return other
            if not place.exists():
                raise
            broken = key.root / layout.STAGING / fs.unique()
            with suppress(FileNotFoundError):
                place.rename(broken)
            fs.remove_tree(broken)
    fs.sync(key.directory)
    _make_current(key, content.generation)
    return Artifact(place, content).with_shared()


def _make_current(key: Key, generation: str) -> None:
    before = layout.pointer(key.directory)
    if before == generation:
        return
    fs.swap_link(key.current, generation)
    if before is not None:
        retire(key, before)
