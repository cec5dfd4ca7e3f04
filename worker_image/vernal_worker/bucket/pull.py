"""From a bucket into a store."""

import os
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from blake3 import blake3
from vernal_contract.config import Verify
from vernal_contract.reasons import Reason

from vernal_worker.bucket import pointer, publications
from vernal_worker.bucket.keys import Place
from vernal_worker.bucket.objects import Objects
from vernal_worker.parallel import for_each
from vernal_worker.store import artifact as artifacts
from vernal_worker.store import blobs, fs, layout, manifest
from vernal_worker.store.artifact import Artifact
from vernal_worker.store.errors import StoreError, guard
from vernal_worker.store.layout import Key
from vernal_worker.store.manifest import FileEntry, Manifest
from vernal_worker.store.pieces import PIECE, Piece, pieces
from vernal_worker.store.staging import retire

THREADS = 16
"""Requests at a time: one alone gets 50 to 100 MB/s from S3 (AWS's performance guidelines for S3)."""

_TRIES = 3
"""For a piece that arrives with other bytes, or fewer, than it should have."""


@dataclass(frozen=True)
class Pulled:
    """`fetched`: the bytes that came from the bucket; the others of the artifact's were there."""

    artifact: Artifact
    fetched: int


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
        if (there := _whole(key, content)) is not None:
            _make_current(key, content.generation)
            return Pulled(there, 0)
        staging = root / layout.STAGING / fs.unique()
        fs.make_directory(staging, root)
    try:
        with guard("pull"):
            missing = _lay_out(staging, root, content)
        total, done = sum(piece.length for piece, _ in missing), [0]
        deadline = None if timeout is None else time.monotonic() + timeout

        def tick() -> None:
            if on_progress is not None:
                on_progress(done[0], total)
            if cancel is not None and cancel.is_set():
                raise StoreError(Reason.THAW_GIVEN_UP, "pull", "cancelled")
            if deadline is not None and time.monotonic() > deadline:
                raise StoreError(Reason.STORE_SLOW, "pull", f"{done[0]} of {total} bytes came in {timeout:g} s")

        def fetch(item: tuple[Piece, str]) -> None:
            piece, digest = item
            _fetch(objects, published.objects[digest], staging, piece, digest, content.generation)
            done[0] += piece.length  # off by a piece at worst, and only for show

        tick()
        with guard("pull"):
            for_each(missing, fetch, threads, tick)
            for entry in content.files:
                if entry.size >= PIECE:
                    blobs.share(staging / entry.path, entry.size, entry.blake3, root)
            fs.write_new(staging / manifest.NAME, published.data)
            return Pulled(_move_in(staging, key, content), total)
    finally:
        with suppress(OSError):
            fs.remove_tree(staging)


def _whole(key: Key, content: Manifest) -> Artifact | None:
    """The same artifact, if the store has it."""
    with suppress(StoreError, FileNotFoundError):
        found = artifacts.load(key.directory / content.generation)
        if found.manifest == content:
            found.verify(Verify.SIZES)
            return found
    return None


def _lay_out(staging: Path, root: Path, content: Manifest) -> list[tuple[Piece, str]]:
    """Make every file, of its size; the pieces that have to be fetched, with their digests."""
    missing: list[tuple[Piece, str]] = []
    for entry in content.files:
        file = staging / entry.path
        for parent in reversed(file.relative_to(staging).parents[:-1]):
            (staging / parent).mkdir(mode=0o700, exist_ok=True)
        if entry.size >= PIECE and _linked(root, entry, file):
            continue
        fd = os.open(file, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o600)
        try:
            os.truncate(fd, entry.size)
        finally:
            os.close(fd)
        missing += zip(pieces(entry.path, entry.size), entry.blake3, strict=True)
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


def _fetch(objects: Objects, key: str, staging: Path, piece: Piece, digest: str, generation: str) -> None:
    for _ in range(_TRIES):
        parts = objects.stream(key, "pull")
        if parts is None:
            message = f"{objects.url}/{key} ({piece}) is missing"
            raise StoreError(Reason.FILE_MISSING, "pull", message, generation=generation)
        hasher, at, start = blake3(), 0, piece.index * PIECE
        fd = os.open(staging / piece.path, os.O_WRONLY | os.O_CLOEXEC)
        try:
            for part in parts:
                if at + len(part) > piece.length:
                    at = -1
                    break
                hasher.update(part)
                _write(fd, part, start + at)
                at += len(part)
        finally:
            os.close(fd)
        if at == piece.length and hasher.hexdigest() == digest:
            return
    message = f"{objects.url}/{key} ({piece}) has other bytes than were written"
    raise StoreError(Reason.DIGEST_MISMATCH, "pull", message, generation=generation)


def _write(fd: int, data: memoryview, offset: int) -> None:
    while data:
        written = os.pwrite(fd, data, offset)
        data, offset = data[written:], offset + written


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
            if (other := _whole(key, content)) is not None:  # somebody was faster
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
