"""A store whose artifacts are in a bucket: what is on disk is this worker's copy.

The bucket decides what there is: an artifact is thawed if it is current there, and is published once it is. What is
here besides is of no use to anybody and makes room. If the bucket does not answer, what was brought before may still be
thawed: its every byte was the bucket's.
"""

import math
import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from msgspec.structs import replace
from vernal_contract.identity import HostTuple, IdentityInputs, digest
from vernal_contract.reasons import Reason
from vernal_contract.state import FreezeOutcome

from vernal_worker.bucket import failures, keys, pointer, publications, users
from vernal_worker.bucket.contents import BucketContents
from vernal_worker.bucket.keys import Place
from vernal_worker.bucket.lease import TTL, BucketLeaseRequest
from vernal_worker.bucket.objects import Objects
from vernal_worker.bucket.publications import Publication as Published
from vernal_worker.bucket.pull import Allowed, FromBucket, pull, whole
from vernal_worker.bucket.push import SECONDS, push
from vernal_worker.store import layout
from vernal_worker.store.artifact import Artifact
from vernal_worker.store.contents import Contents
from vernal_worker.store.errors import StoreError
from vernal_worker.store.failures import Failure
from vernal_worker.store.fitting import Candidate, Picked, pick
from vernal_worker.store.layout import Key
from vernal_worker.store.lease import Held, Owner, Request
from vernal_worker.store.manifest import Manifest
from vernal_worker.store.node_cache import View
from vernal_worker.store.quarantine import Quarantine
from vernal_worker.store.receiving import Source
from vernal_worker.store.staging import Publication, Staging
from vernal_worker.store.store import Lookup, Store

_GONE = frozenset({Reason.OBJECT_STORE_UNAVAILABLE, Reason.STORE_SLOW})

Progress = Callable[[str, int, int], None]
"""Told now and then what is done ("fetch" to the node cache, "pull" to here, or "push"), bytes done and in all."""

Fetch = Callable[[Manifest, Source, float | None, Callable[[int, int], None]], View | None]
"""The artifact of a manifest by way of the node cache, which gets it from the source; None where that cannot be.
Another worker that does the same is waited for, so many seconds. The last one is told bytes done and in all, and may
raise."""


_LAST_CALL_SECONDS = 120.0
"""For a call that is under way, and tried again, when the time for a pull or a push is up. Who is told to stop does not
wait for it."""


def _with_last_call(seconds: float | None) -> float:
    return math.inf if seconds is None else seconds + _LAST_CALL_SECONDS


@dataclass(frozen=True)
class _Offer:
    """What is current at `place`; `failed`: its thaws that did not work."""

    place: Place
    published: Published
    failed: Sequence[Failure]


class BucketStore(Store):
    """The store under `root` with artifacts of `objects`.

    Args:
        transfer: the same bucket for pieces of artifacts, which may be tried again for longer; default: `objects`.
        cached: looks for an artifact in the node cache, before it is brought; never raises.
        fetched: has one that is nowhere on the node brought to the node cache, and not to here.
        pull_seconds: how long so many bytes may take to come; None for as long as it takes.
        on_progress: see `Progress`; may raise a `StoreError` to give up.

    The others are those of `Store`.
    """

    def __init__(
        self,
        root: Path,
        objects: Objects,
        *,
        transfer: Objects | None = None,
        restore_attempts: int = 3,
        patience: float | None = None,
        cancel: threading.Event | None = None,
        signing_key: bytes | None = None,
        user: str = "",
        renew: Collection[str] = (),
        cached: Callable[[Manifest], View | None] = lambda content: None,
        fetched: Fetch = lambda content, source, wait, on_progress: None,
        pull_seconds: Callable[[int], float | None] = lambda size: None,
        on_progress: Progress = lambda what, done, size: None,
    ) -> None:
        super().__init__(
            root,
            restore_attempts=restore_attempts,
            patience=patience,
            cancel=cancel,
            signing_key=signing_key,
            user=user,
            renew=renew,
        )
        self._objects, self._transfer, self._cancel = objects, transfer or objects, cancel
        self._pull_seconds, self._on_progress = pull_seconds, on_progress
        self._in_node_cache, self._into_node_cache = cached, fetched

    @property
    def contents(self) -> Contents:
        return BucketContents(self._objects, super().contents)

    # --- for who thaws ---

    def open(self, identity: IdentityInputs, host: HostTuple, owner: Owner) -> Lookup:
        """As `Store.open`, of what is current in the bucket. If it is neither here nor in the node cache it is brought
        first: to the node cache, or here if that has none of it.

        Raises:
            StoreError: as `Store.open`, and stage find or pull: `OBJECT_STORE_UNAVAILABLE`, `STORE_SLOW`,
                `DIGEST_MISMATCH` and `FILE_MISSING` (with `generation`), `STORE_FULL`.
        """
        try:
            found = self._touch("find", partial(self._pick, identity, host))
            if found.content is None:
                return Lookup(None, found.reason, found.message, found.seconds_left)
            doubted = self._touch("find", partial(self._use, found.content))
            content = found.content.published.manifest
            if (view := self._in_node_cache(content) or self._bring(found.content)) is not None:
                return Lookup(Artifact(view.path, content), doubted=doubted, view=view)
        except StoreError as error:
            if error.reason in _GONE and (here := super().open(identity, host, owner)).artifact is not None:
                return here
            raise
        here = super().open(identity, host, owner)
        return replace(here, doubted=here.doubted or doubted)

    def _use(self, offer: _Offer) -> bool:
        """Whether thaws of it or of one before it have failed. Raises: StoreError."""
        with suppress(StoreError):  # who may only read thaws all the same, and may find it gone the next time
            users.use(self._objects, offer.place, self.user, "find")
        return failures.doubted(self._objects, offer.place, offer.failed, "find")

    def _bring(self, offer: _Offer) -> View | None:
        """Have it in the node cache, or else here, and nothing else here. Raises: StoreError."""
        content = offer.published.manifest
        self._drop_all_but(content.generation)
        seconds = self._pull_seconds(sum(entry.size for entry in content.files))
        try:
            here = partial(whole, Key(self.root, content.identity, content.host_tuple), content)
            if self._touch("find", here) is None:
                began, source = time.monotonic(), FromBucket(self._transfer, offer.published)
                allowed = Allowed(seconds, self._cancel, partial(self._on_progress, "fetch"))
                wait = None if seconds is None else seconds / 2  # then there is as much for a transfer of our own
                if (view := self._into_node_cache(content, source, wait, allowed)) is not None:
                    return view
                seconds = None if seconds is None else max(0.0, seconds - (time.monotonic() - began))
            fetch = partial(
                pull,
                self._transfer,
                self.root,
                offer.place,
                signing_key=self._signing_key,
                timeout=seconds,
                cancel=self._cancel,
                on_progress=partial(self._on_progress, "pull"),
            )
            self._touch("pull", fetch, patience=_with_last_call(seconds))
        except StoreError as error:
            error.host = offer.place.host
            raise
        return None

    def published(self, identity: IdentityInputs, host: HostTuple) -> str | None:
        found = self._touch("find", partial(self._pick, identity, host))
        return None if found.content is None else found.content.published.manifest.generation

    def _pick(self, identity: IdentityInputs, host: HostTuple) -> Picked[_Offer]:
        exact = Place.of(digest(identity), digest(host))
        return pick(self._candidates(exact), lambda offer: offer.published.manifest, exact.identity, host, self._renew)

    def _candidates(self, exact: Place) -> Iterator[Candidate[_Offer]]:
        """Of an identity, what is current for any host: that for exactly this one first, then the newest."""
        below = self._objects.list(f"{keys.ARTIFACTS}/{exact.identity}", "find")
        named = (keys.read(found.key) for found in below)
        places = {each.place for each in named if each is not None and each.current}
        current = [(place, pointer.look(self._objects, place, "find")) for place in places]
        there = [(place, found.publication) for place, found in current if found is not None and found.publication]
        for place, publication in sorted(there, key=lambda each: (each[0] == exact, each[1]), reverse=True):
            generation = keys.generation_of(publication)
            failed = failures.load(self._objects, place, generation, "find")
            yield Candidate(
                generation,
                place.host,
                partial(failures.look, self._objects, place, generation, failed, self.restore_attempts, "find"),
                partial(self._offer, place, publication, failed),
            )

    def _offer(self, place: Place, publication: str, failed: Sequence[Failure]) -> _Offer:
        return _Offer(place, publications.load(self._objects, place, publication, "find", self._signing_key), failed)

    # --- for who makes one ---

    def stage(self, identity: IdentityInputs, host: HostTuple) -> Staging:
        """As `Store.stage`, with nothing else here: an earlier container of this pod may have been killed while it
        froze, and the pod has room for one checkpoint."""
        self._drop_all_but("")
        return super().stage(identity, host)

    def lease(self, identity: IdentityInputs, host: HostTuple, owner: Owner, *, ttl: float = TTL) -> Request:
        return BucketLeaseRequest(self._objects, self._place(identity, host), owner, self._touch, ttl)

    def publish(
        self,
        staging: Staging,
        *,
        created_by: str,
        lease: Held | None = None,
        timings: Mapping[str, float] | None = None,
        blobs: Mapping[str, Sequence[str]] | None = None,
        timeout: float | None = None,
        cancel: threading.Event | None = None,
    ) -> Publication:
        """As `Staging.publish`, and then in the bucket: published is what is current there. Nothing stays here that is
        not.

        Raises:
            StoreError: also stage push: see `bucket.push`.
        """
        done = super().publish(
            staging, created_by=created_by, lease=lease, timings=timings, blobs=blobs, timeout=timeout, cancel=cancel
        )
        content = done.artifact.manifest
        place = Place.of(content.identity, content.host_tuple)
        try:
            self._touch("push", lambda: users.use(self._objects, place, self.user, "push"))
            send = partial(
                push,
                self._transfer,
                done.artifact,
                may_replace=partial(self._may_replace, place),
                timeout=SECONDS if timeout is None else timeout,
                cancel=cancel,
                on_progress=partial(self._on_progress, "push"),
            )
            pushed = self._touch("push", send, patience=_with_last_call(timeout))
            if pushed.outcome is FreezeOutcome.PUBLISHED:
                return done
            other = self._touch("push", partial(self._at, place))
        except BaseException:
            self._drop_all_but("")
            raise
        self._drop_all_but("")
        return Publication(pushed.outcome, other)

    def _may_replace(self, place: Place, generation: str) -> bool:
        """Whether what is current is to be replaced: asked for, broken or given up."""
        if generation in self._renew:
            return True
        failed = failures.load(self._objects, place, generation, "push")
        if failures.look(self._objects, place, generation, failed, self.restore_attempts, "push") is not None:
            return True
        try:
            return self._at(place).generation != generation
        except StoreError as error:
            if error.reason in _GONE:
                raise
            return True

    def _at(self, place: Place) -> Artifact:
        """What is current there, as it is here once it is brought. Raises: StoreError."""
        current = pointer.look(self._objects, place, "push")
        if current is None or not current.publication:
            raise StoreError(Reason.NO_ARTIFACT, "push", f"{self._objects.url}/{place.current}: no artifact is current")
        content = publications.load(self._objects, place, current.publication, "push", self._signing_key).manifest
        return Artifact(Key(self.root, content.identity, content.host_tuple).directory / content.generation, content)

    # --- for who could not thaw ---

    def record_failure(
        self,
        identity: IdentityInputs,
        host: HostTuple | str,
        generation: str,
        *,
        stage: str,
        reason: Reason,
        message: str,
        worker: str,
        node: str = "",
    ) -> Quarantine | None:
        place = self._place(identity, host)

        def record() -> Quarantine | None:
            failures.record(
                self._objects, place, generation, stage=stage, reason=reason, message=message, worker=worker, node=node
            )
            failed = failures.load(self._objects, place, generation, "failures")
            return failures.look(self._objects, place, generation, failed, self.restore_attempts, "failures")

        return self._touch("failures", record)

    def forgive(self, identity: IdentityInputs, host: HostTuple, generation: str) -> None:
        self._touch("failures", lambda: failures.forgive(self._objects, self._place(identity, host), generation))

    def failures(self, identity: IdentityInputs, host: HostTuple, generation: str) -> list[Failure]:
        place = self._place(identity, host)
        return self._touch("failures", lambda: failures.load(self._objects, place, generation, "failures"))

    # --- underneath ---

    def _place(self, identity: IdentityInputs, host: HostTuple | str) -> Place:
        known = host if isinstance(host, str) else digest(host)
        return Place(digest(identity), known[: layout.HOST_DIGITS])

    def _drop_all_but(self, generation: str) -> None:
        """Make room: what is here besides has no readers, since nobody else uses this copy."""
        with suppress(StoreError):
            for artifact in self.artifacts():
                if artifact.generation != generation:
                    known = artifact.manifest
                    self.remove(known.identity, known.host_tuple, grace=0.0)
            self.gc(grace=0.0)
