"""Thaws that failed, and what was given up because of them, where every worker sees it: the bucket's side of
`store.failures` and `store.quarantine`. One small object a failure, and one for what was given up last."""

from collections.abc import Sequence

import msgspec
from vernal_contract import decoding
from vernal_contract.reasons import Reason

from vernal_worker.bucket.keys import Place
from vernal_worker.bucket.objects import Objects
from vernal_worker.store import quarantine
from vernal_worker.store.failures import Failure, is_known, made
from vernal_worker.store.fs import unique
from vernal_worker.store.quarantine import Quarantine, Record

_MOST = 100
"""Failures of one generation that are read: more say nothing more."""


def record(
    objects: Objects,
    place: Place,
    generation: str,
    *,
    stage: str,
    reason: Reason,
    message: str,
    worker: str,
    node: str = "",
) -> None:
    """Raises: StoreError: stage failures."""
    failure = made(stage=stage, reason=reason, message=message, worker=worker, node=node)
    if is_known(failure, load(objects, place, generation, "failures")):
        return
    objects.put(f"{place.failures(generation)}/{unique()}.json", msgspec.json.encode(failure), "failures")


def load(objects: Objects, place: Place, generation: str, stage: str) -> list[Failure]:
    """Oldest first. One that cannot be parsed is left out.

    Raises: StoreError.
    """
    found = []
    for entry in objects.list(place.failures(generation), stage)[:_MOST]:
        read = objects.get(entry.key, stage)
        try:
            if read is not None:
                found.append(decoding.json(read.data, Failure))
        except msgspec.MsgspecError:
            continue
    return sorted(found, key=lambda failure: failure.time)


def look(
    objects: Objects, place: Place, generation: str, found: Sequence[Failure], attempts: int, stage: str
) -> Quarantine | None:
    """Whether `generation` is given up after these failures; the first who sees that it is notes it down.

    Raises: StoreError.
    """
    if quarantine.counted(found) < attempts:
        return None
    while True:
        read = objects.get(place.quarantine, stage)
        record = None
        try:
            record = decoding.json(read.data, Record) if read is not None else None
        except msgspec.MsgspecError:
            pass
        if read is not None and record is not None and record.generation == generation:
            break
        new = msgspec.json.encode(quarantine.following(record, generation, unique()))
        objects.swap(place.quarantine, new, read, stage)  # or another's is there now
    left = quarantine.delay(record.rounds)
    if left:
        left = quarantine.remaining(left, objects.now(stage) - read.modified)
    return quarantine.said(generation, found, record.rounds, left)


def doubted(objects: Objects, place: Place, found: Sequence[Failure], stage: str) -> bool:
    """Whether thaws of a generation with these failures, or of one before it, have failed. Raises: StoreError."""
    return bool(found) or objects.head(place.quarantine, stage) is not None


def forgive(objects: Objects, place: Place, generation: str) -> None:
    """`generation` was thawed: forget its failures, and those of its predecessors. Raises: StoreError."""
    failed = objects.list(place.failures(generation), "failures")
    objects.delete([place.quarantine, *(entry.key for entry in failed)], "failures")
