"""Which of the current artifacts of an identity a worker on some host takes, wherever they lie."""

from collections.abc import Callable, Collection, Iterable
from typing import Generic, TypeVar

import msgspec
from vernal_contract.identity import HostTuple, misfits
from vernal_contract.reasons import Reason

from vernal_worker.store.errors import StoreError
from vernal_worker.store.manifest import Manifest
from vernal_worker.store.quarantine import Quarantine

T = TypeVar("T")


class Candidate(msgspec.Struct, Generic[T], frozen=True):
    """A generation that is current for some host. `host`: what its place says of that one's digest; `given_up`: whether
    it is; `load`: reads it, or raises a `StoreError`."""

    generation: str
    host: str
    given_up: Callable[[], Quarantine | None]
    load: Callable[[], T]


class Picked(msgspec.Struct, Generic[T], frozen=True):
    """What fits, or the reason for nothing with a message for people. `seconds_left`: see `Quarantine`."""

    content: T | None
    reason: Reason | None = None
    message: str = ""
    seconds_left: float = 0.0


def pick(
    candidates: Iterable[Candidate[T]],
    manifest: Callable[[T], Manifest],
    identity: str,
    host: HostTuple,
    renew: Collection[str],
) -> Picked[T]:
    """The first that fits and may be thawed.

    Args:
        identity: its digest, for messages.
        renew: generations that are to be replaced.

    Raises:
        StoreError: as `load`, with `host` set, where no other fits.
    """
    broken: StoreError | None = None
    refused: Picked[T] | None = None
    strange: list[Manifest] = []
    for each in candidates:
        given_up = each.given_up()
        try:
            found = each.load()
        except StoreError as error:
            error.host = each.host
            broken = broken or (error if given_up is None else None)
        else:
            if misfits(manifest(found).host, host):
                strange.append(manifest(found))
                continue
            if each.generation in renew:
                message = f"{each.generation} is to be replaced, as the pool's annotation asks"
                refused = refused or Picked(None, Reason.RENEWAL_ASKED, message)
                continue
            if given_up is None:
                return Picked(found)
        if given_up is not None:
            refused = refused or Picked(None, Reason.QUARANTINED, given_up.message, given_up.seconds_left)
    if broken is not None:
        raise broken
    if refused is not None:
        return refused
    if strange:
        lines = "; ".join(misfits(strange[0].host, host))
        return Picked(None, Reason.HOST_MISMATCH, f"{strange[0].generation} is for another host: {lines}")
    return Picked(None, Reason.NO_ARTIFACT, f"no artifact of identity {identity}")
