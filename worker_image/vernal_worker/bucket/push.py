"""From a store into a bucket."""

import os
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from blake3 import blake3
from vernal_contract.reasons import Reason
from vernal_contract.state import FreezeOutcome

from vernal_worker.bucket import collect, failures, keys, pointer, publications
from vernal_worker.bucket.keys import Place
from vernal_worker.bucket.objects import Objects
from vernal_worker.bucket.pointer import Pointer
from vernal_worker.parallel import for_each
from vernal_worker.store import manifest
from vernal_worker.store.artifact import Artifact
from vernal_worker.store.errors import StoreError, guard
from vernal_worker.store.pieces import PIECE, Piece, default_threads, pieces

_MOST_THREADS = 8
"""Each has a piece in memory."""

SECONDS = collect.GRACE / 3
"""The longest that it may take: see `collect`. What is left of the grace period's half is for a call that is answered
late."""


@dataclass(frozen=True)
class Pushed:
    """`generation` is current now: ours (`PUBLISHED`) or another's (`PUBLISHED_BY_OTHER`). `sent`: bytes uploaded; the
    others were there."""

    outcome: FreezeOutcome
    generation: str
    sent: int


def push(
    objects: Objects,
    artifact: Artifact,
    *,
    may_replace: Callable[[str], bool] = lambda generation: False,
    timeout: float = SECONDS,
    cancel: threading.Event | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> Pushed:
    """Publish an artifact: its pieces, its manifest as it is, the pointer last. Who reads meanwhile finds the one
    before or this one, whole.

    Args:
        may_replace: whether the generation that is current may be replaced; without, the first one stays.
        timeout: seconds after which it is given up, `SECONDS` at most.
        cancel: give up when set.
        on_progress: called now and then in the caller's thread with bytes done and in all.

    Raises:
        StoreError: stage push: `OBJECT_STORE_UNAVAILABLE`, `STORE_SLOW`, `FREEZE_GIVEN_UP`; `DIGEST_MISMATCH` (a file
            here has other bytes than the manifest says), `FILE_MISSING`.
    """
    content = artifact.manifest
    place = Place.of(content.identity, content.host_tuple)
    try:
        with guard("push"):
            data = (artifact.path / manifest.NAME).read_bytes()
    except StoreError as error:
        raise _missing(artifact, error) from error

    def stays(current: Pointer | None) -> bool:
        """What is ours too, under another publication; another's, unless it may go."""
        if current is None or not current.publication:
            return False
        return current.generation == artifact.generation or not may_replace(current.generation)

    def stays_in_time(current: Pointer | None) -> bool:
        tick()
        return stays(current)

    current = pointer.look(objects, place, "push")
    if stays(current):
        return _pushed(artifact, current, 0)
    deadline = time.monotonic() + min(timeout, SECONDS)
    wanted: dict[str, Piece] = {}
    for entry in content.files:
        wanted |= dict(zip(entry.blake3, pieces(entry.path, entry.size), strict=True))
    token, there = keys.new_token(), _published(objects)
    where = {digest: there[digest] for digest in wanted.keys() & there.keys()}
    total, done, sent = sum(piece.length for piece in wanted.values()), [0], [0]

    def tick() -> None:
        if on_progress is not None:
            on_progress(done[0], total)
        if cancel is not None and cancel.is_set():
            raise StoreError(Reason.FREEZE_GIVEN_UP, "push", "cancelled")
        if time.monotonic() > deadline:
            raise StoreError(
                Reason.STORE_SLOW, "push", f"{done[0]} of {total} bytes are in the bucket in {timeout:g} s"
            )

    def send(item: tuple[str, Piece]) -> None:
        digest, piece = item
        if digest not in there or not _is_whole(objects, there[digest], piece):
            where[digest] = keys.piece(digest, token)
            data = _read(artifact, piece)
            if blake3(data).hexdigest() != digest:
                message = f"{artifact.path}/{piece} has other bytes than were written"
                raise StoreError(Reason.DIGEST_MISMATCH, "push", message, generation=artifact.generation)
            objects.put(where[digest], data, "push")
            sent[0] += piece.length
        done[0] += piece.length

    try:
        with guard("push"):
            for_each(wanted.items(), send, min(_MOST_THREADS, default_threads()), tick)
    except StoreError as error:
        raise _missing(artifact, error) from error
    tick()
    publication = keys.publication(artifact.generation, token)
    objects.put(place.manifest(publication), publications.encode(data, where), "push")
    other = pointer.point(objects, place, publication, stays_in_time, "push")
    return _pushed(artifact, other, sent[0])


def _pushed(artifact: Artifact, current: Pointer | None, sent: int) -> Pushed:
    if current is None or current.generation == artifact.generation:
        return Pushed(FreezeOutcome.PUBLISHED, artifact.generation, sent)
    return Pushed(FreezeOutcome.PUBLISHED_BY_OTHER, current.generation, sent)


def _is_whole(objects: Objects, key: str, piece: Piece) -> bool:
    """What another publication says it has may have been lost since, and must not be lost for this one, too."""
    found = objects.head(key, "push")
    return found is not None and found.size == piece.length


def _published(objects: Objects) -> dict[str, str]:
    """The pieces of what is published and stays for as long as this takes, because it is not retired: their keys by
    digest. Not those of what was found to have other bytes: no look at an object would tell."""
    names = [named for found in objects.list(keys.ARTIFACTS, "push") if (named := keys.read(found.key)) is not None]
    retired = {(named.place, named.publication) for named in names if named.retired}
    failed = {found.key.rpartition("/")[0] for found in objects.list(keys.FAILURES, "push")}
    there: dict[str, str] = {}
    doubtful: set[str] = set()
    for named in names:
        if named.current or named.retired:
            continue
        about = named.place.failures(keys.generation_of(named.publication))
        spoiled = about in failed and _has_other_bytes(objects, named)
        if (named.place, named.publication) in retired and not spoiled:
            continue
        try:
            found = publications.load(objects, named.place, named.publication, "push").objects
        except StoreError as error:
            if error.reason is Reason.OBJECT_STORE_UNAVAILABLE:
                raise
            continue  # then it keeps nothing
        if spoiled:
            doubtful |= set(found.values())
        else:
            there |= found
    return {digest: key for digest, key in there.items() if key not in doubtful}


def _has_other_bytes(objects: Objects, named: keys.Named) -> bool:
    """Whether somebody who fetched it has found a piece damaged: which one is not known, nor who else has it."""
    found = failures.load(objects, named.place, keys.generation_of(named.publication), "push")
    return any(failure.reason is Reason.DIGEST_MISMATCH for failure in found)


def _read(artifact: Artifact, piece: Piece) -> bytearray:
    """What is there of it: a piece is in memory once."""
    data, at = bytearray(piece.length), 0
    fd = os.open(artifact.path / piece.path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        with memoryview(data) as view:
            while at < piece.length:
                read = os.preadv(fd, [view[at:]], piece.index * PIECE + at)
                if not read:
                    break
                at += read
    finally:
        os.close(fd)
    del data[at:]
    return data


def _missing(artifact: Artifact, error: StoreError) -> StoreError:
    cause = error.__cause__
    if not isinstance(cause, FileNotFoundError):
        return error
    return StoreError(Reason.FILE_MISSING, "push", f"{cause.filename} is missing", generation=artifact.generation)
