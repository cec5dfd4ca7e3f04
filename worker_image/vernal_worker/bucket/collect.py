"""What nobody can need in a bucket, found by reachability, and deleted.

Nothing is locked. A publication that is not current any more is marked with the bucket's time and deleted once the mark
is older than the grace period; a piece, once no publication has it and it is older itself. A publication takes over
only pieces of others that are not marked when it begins, and is over, or given up, within half a grace period: so what
it takes over outlives it, and from then on it keeps them itself. What has been deleted is never written anew, since
every attempt to publish writes objects of names of its own; so no decision to delete is ever too late. A list that lags
shows less than there is: a publication that is missing in it for less than half a grace period comes to no harm.
"""

from collections.abc import Callable
from dataclasses import dataclass

from vernal_contract.reasons import Reason

from vernal_worker.bucket import keys, pointer, publications, users
from vernal_worker.bucket.keys import Place
from vernal_worker.bucket.objects import Found, Objects
from vernal_worker.store.contents import KEPT_SECONDS
from vernal_worker.store.errors import StoreError

GRACE = 7200.0
"""Seconds."""


@dataclass(frozen=True)
class Garbage:
    """`key` can go because of `why`; `bytes` come back."""

    key: str
    why: str
    bytes: int


@dataclass(frozen=True)
class Collected:
    """`kept`: why pieces stay although no manifest that can be read has them; empty if none does for such a reason."""

    garbage: list[Garbage]
    kept: str = ""


@dataclass(frozen=True)
class Removed:
    """`count`: how many nobody finds any more; `kept`: which stay, and who uses them."""

    count: int
    kept: tuple[str, ...] = ()


def remove(objects: Objects, identity: str, host: str = "", user: str = "") -> Removed:
    """Nobody finds the artifacts of an identity, of one host tuple or of all, from now on; `collect` deletes them when
    the grace period is over.

    Args:
        user: lets go of them, and others' stay; empty to remove them whoever uses them.

    Raises:
        StoreError: stage gc.
        ValueError: not a digest.
    """
    places = {
        named.place
        for found in objects.list(f"{keys.ARTIFACTS}/{identity}", "gc")
        if (named := keys.read(found.key)) is not None and named.current
    } | ({Place.of(identity, host)} if host else set())
    count, kept = 0, []
    for place in sorted(place for place in places if not host or place == Place.of(identity, host)):
        if user:
            users.disuse(objects, place, user, "gc")
            if others := users.users(objects, place, "gc"):
                kept.append(f"{place.prefix}: used by {', '.join(others)}")
                continue
        current = pointer.look(objects, place, "gc")
        marks = [mark.key for mark in objects.list(place.users, "gc")]
        objects.delete([place.current, *marks], "gc")
        if current is not None and current.publication:
            objects.put(place.retired(current.publication), b"", "gc")
        count += current is not None
    return Removed(count, tuple(kept))


def collect(
    objects: Objects,
    *,
    grace: float = GRACE,
    dry: bool = False,
    on_progress: Callable[[str], None] = lambda text: None,
) -> Collected:
    """Delete what nobody needs, or with `dry` say what. A publication that is found not to be current for the first
    time is only marked.

    Args:
        grace: seconds; less than `GRACE` only where nobody publishes or thaws.
        on_progress: told what is being done.

    Raises:
        StoreError: stage gc: `OBJECT_STORE_UNAVAILABLE`.
    """
    now = objects.now("gc")
    on_progress("listing the pieces")
    pieces = [found for found in objects.list(keys.PIECES, "gc") if keys.read_piece(found.key) is not None]
    on_progress("reading the manifests")
    garbage = _publications(objects, now - grace, dry)
    gone = {item.key for item in garbage}
    garbage += _small(objects, now, now - grace)
    needed: set[str] = set()
    kept = ""
    for found in objects.list(keys.ARTIFACTS, "gc"):
        named = keys.read(found.key)
        if named is None or named.current or named.retired or found.key in gone:
            continue
        try:
            needed |= set(publications.load(objects, named.place, named.publication, "gc").objects.values())
        except StoreError as error:
            if error.reason is Reason.OBJECT_STORE_UNAVAILABLE:
                raise
            if error.reason is not Reason.MANIFEST_MISSING:  # it has just been deleted
                kept = f"{found.key} cannot be read ({error.reason}), and any piece may be its"
            continue
    unused = [
        Garbage(found.key, "nothing that is published has it", found.size)
        for found in pieces
        if found.key not in needed and found.modified <= now - grace
    ]
    if not kept:
        garbage += unused
    if not dry:
        on_progress(f"deleting {len(garbage)} objects")
        objects.delete([item.key for item in garbage], "gc")
    return Collected(garbage, kept if unused else "")


def _publications(objects: Objects, before: float, dry: bool) -> list[Garbage]:
    """Manifests, and their marks, of publications that have not been current since `before`."""
    there: dict[Place, dict[str, Found]] = {}
    marks: dict[tuple[Place, str], Found] = {}
    for found in objects.list(keys.ARTIFACTS, "gc"):
        named = keys.read(found.key)
        if named is None:
            continue
        if named.retired:
            marks[named.place, named.publication] = found
        elif not named.current:
            there.setdefault(named.place, {})[named.publication] = found
    garbage: list[Garbage] = []
    for place, at_place in sorted(there.items()):
        current = pointer.look(objects, place, "gc")
        for publication, found in sorted(at_place.items()):
            if current is not None and current.publication == publication:
                continue
            mark = marks.get((place, publication))
            if mark is None:
                if not dry and found.modified <= before:  # a younger one may be about to become current
                    objects.put(place.retired(publication), b"", "gc")
            elif mark.modified <= before:
                garbage.append(Garbage(found.key, "it is not current any more", found.size))
                garbage.append(Garbage(mark.key, "its manifest goes", mark.size))
    lone = [found for (place, publication), found in marks.items() if publication not in there.get(place, {})]
    garbage += [Garbage(found.key, "its manifest is gone", found.size) for found in lone if found.modified <= before]
    return garbage


def _small(objects: Objects, now: float, before: float) -> list[Garbage]:
    """Leases that nobody has renewed since `before`, what was said about publications that are gone, and what else is
    old: none of it has bytes that count, but each is an object."""
    there = [named for found in objects.list(keys.ARTIFACTS, "gc") if (named := keys.read(found.key)) is not None]
    prefixes = {named.place.users for named in there}
    for named in there:
        prefixes |= {named.place.quarantine, named.place.failures(keys.generation_of(named.publication))}
    garbage = []
    for kind, why, limit in (
        (keys.LEASES, "nobody holds it", before),
        (keys.CLOCK, "nobody looks at it any more", before),
        (keys.FAILURES, "what it is about is gone", before),
        (keys.USERS, "what it is about is gone", before),
        (keys.CONTENTS, "it has been there for long", now - KEPT_SECONDS),
    ):
        for found in objects.list(kind, "gc"):
            if found.modified <= limit and not {found.key, found.key.rpartition("/")[0]} & prefixes:
                garbage.append(Garbage(found.key, why, found.size))
    return garbage
