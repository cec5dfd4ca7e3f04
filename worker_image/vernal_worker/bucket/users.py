"""Who needs the artifacts of a place: a mark each, which the janitor takes away. Several claims to one publication are
usual, from several clusters too; it stays until the last one is gone (as in a store: see `store.reading`)."""

import hashlib

from vernal_worker.bucket.keys import Place
from vernal_worker.bucket.objects import Objects


def use(objects: Objects, place: Place, user: str, stage: str) -> None:
    """Note that `user` needs what is at `place` until `disuse`. Raises: StoreError."""
    if user and objects.head(_key(place, user), stage) is None:
        objects.put(_key(place, user), user.encode(), stage)


def disuse(objects: Objects, place: Place, user: str, stage: str) -> None:
    """Raises: StoreError."""
    objects.delete([_key(place, user)], stage)


def users(objects: Objects, place: Place, stage: str) -> list[str]:
    """Raises: StoreError."""
    marks = (objects.get(found.key, stage) for found in objects.list(place.users, stage))
    return sorted(mark.data.decode(errors="replace") for mark in marks if mark is not None)


def _key(place: Place, user: str) -> str:
    return f"{place.users}/{hashlib.sha256(user.encode()).hexdigest()[:32]}"
