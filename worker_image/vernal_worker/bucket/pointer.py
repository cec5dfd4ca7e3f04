"""Which publication is current: the one object that changes."""

from collections.abc import Callable
from dataclasses import dataclass

import msgspec
from vernal_contract import decoding

from vernal_worker.bucket import keys
from vernal_worker.bucket.keys import Place
from vernal_worker.bucket.objects import Objects, Read


class _Content(msgspec.Struct, frozen=True, kw_only=True):
    publication: str


@dataclass(frozen=True)
class Pointer:
    """`publication` is empty if what is there is none of ours."""

    publication: str
    read: Read

    @property
    def generation(self) -> str:
        return keys.generation_of(self.publication)


def look(objects: Objects, place: Place, stage: str) -> Pointer | None:
    """Raises: StoreError."""
    read = objects.get(place.current, stage)
    if read is None:
        return None
    try:
        publication = decoding.json(read.data, _Content).publication
    except msgspec.DecodeError:
        publication = ""
    return Pointer(publication if keys.generation_of(publication) else "", read)


def point(
    objects: Objects, place: Place, publication: str, stays: Callable[[Pointer | None], bool], stage: str
) -> Pointer | None:
    """Make `publication` current, and mark what it replaces as retired; or, if what is current `stays`, mark
    `publication`. Returns what is current instead, or None.

    Raises: StoreError.
    """
    content = msgspec.json.encode(_Content(publication=publication))
    while True:
        before = look(objects, place, stage)
        if stays(before):
            objects.put(place.retired(publication), b"", stage)
            return before
        if objects.swap(place.current, content, before.read if before else None, stage):
            if before is not None and before.publication:
                objects.put(place.retired(before.publication), b"", stage)
            return None
