"""Thaws that did not end in a ready worker: one small file each, beside the artifact, seen by every worker."""

from collections.abc import Sequence
from datetime import UTC, datetime

import msgspec
from vernal_contract import decoding
from vernal_contract.reasons import About, Reason, about

from vernal_worker.store import fs
from vernal_worker.store.layout import Key


class Failure(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    stage: str
    reason: Reason
    message: str
    worker: str
    node: str = ""
    time: str  # RFC 3339, by the worker's clock: for people


def record(key: Key, generation: str, *, stage: str, reason: Reason, message: str, worker: str, node: str = "") -> None:
    """Raises:
    OSError: the storage cannot be written.
    """
    failure = made(stage=stage, reason=reason, message=message, worker=worker, node=node)
    if is_known(failure, load(key, generation)):
        return
    directory = key.failures(generation)
    fs.make_directory(directory, key.root)
    # Written under a name that is not counted: a reader never sees half of it.
    part = directory / f".{fs.unique()}"
    fs.write_new(part, msgspec.json.encode(failure))
    part.rename(directory / f"{fs.unique()}.json")


def made(*, stage: str, reason: Reason, message: str, worker: str, node: str = "") -> Failure:
    """One that is now."""
    now = datetime.now(UTC).isoformat(timespec="seconds")
    return Failure(stage=stage, reason=reason, message=message, worker=worker, node=node, time=now)


def is_known(failure: Failure, found: Sequence[Failure]) -> bool:
    """Whether it says no more than one that was `found`: a node counts once, and may fail for ever."""
    of_nodes = {each.node for each in found if about(each.reason) is About.NODE}
    return about(failure.reason) is About.NODE and failure.node in of_nodes


def load(key: Key, generation: str) -> list[Failure]:
    """Oldest first. One that cannot be parsed is left out."""
    found = []
    for path in key.failures(generation).glob("[!.]*.json"):
        try:
            found.append(decoding.json(path.read_bytes(), Failure))
        except (msgspec.MsgspecError, FileNotFoundError):
            continue
    return sorted(found, key=lambda f: f.time)
