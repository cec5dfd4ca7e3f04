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

from vernal_worker.bucket import keys, pointer, publications
from vernal_worker.bucket.keys import Place
from vernal_worker.bucket.objects import Found, Objects
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


def remove(objects: Objects, identity: str, host: str = "") -> int:
    """Nobody finds the artifacts of an identity, of one host tuple or of all, from now on; `collect` deletes them when
    the grace period is over. Returns how many there were.

    Raises:
        StoreError: stage gc.
    """
    places = {
        named.place
        for found in objects.list(f"{keys.ARTIFACTS}/{identity}", "gc")
        if (named := keys.read(found.key)) is not None and named.current
    }
    wanted = sorted(place for place in places if not host or place == Place.of(identity, host))
    for place in wanted:
        current = pointer.look(objects, place, "gc")
        objects.delete([place.current], "gc")
        if current is not None and current.publication:
            objects.put(place.retired(current.publication), b"", "gc")
    return len(wanted)


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
        StoreError: stage gc: `STORE_UNAVAILABLE`.
    """
    now = objects.now("gc")
    on_progress("listing the pieces")
    pieces = [found for found in objects.list(keys.PIECES, "gc") if keys.read_piece(found.key) is not None]
    on_progress("reading the manifests")
    garbage = _publications(objects, now - grace, dry)
    gone = {item.key for item in garbage}
    needed: set[str] = set()
    kept = ""
    for found in objects.list(keys.ARTIFACTS, "gc"):
        named = keys.read(found.key)
        if named is None or named.current or named.retired or found.key in gone:
            continue
        try:
            needed |= set(publications.load(objects, named.place, named.publication, "gc").objects.values())
        except StoreError as error:
            if error.reason is Reason.STORE_UNAVAILABLE:
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
