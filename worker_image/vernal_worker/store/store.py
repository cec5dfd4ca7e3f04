"""The store: look up, stage, lease, failures, clean-up."""

import threading
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
from msgspec.structs import replace
from vernal_contract.identity import HostTuple, IdentityInputs, digest
from vernal_contract.reasons import Reason

from vernal_worker.store import artifact as artifacts
from vernal_worker.store import failures, fs, layout, quarantine, reading
from vernal_worker.store.artifact import Artifact
from vernal_worker.store.contents import Contents
from vernal_worker.store.errors import StoreError, Touch, guard
from vernal_worker.store.failures import Failure
from vernal_worker.store.fitting import Candidate, pick
from vernal_worker.store.layout import Key
from vernal_worker.store.lease import Held, LeaseRequest, Owner, Request
from vernal_worker.store.manifest import Manifest
from vernal_worker.store.node_cache import View
from vernal_worker.store.quarantine import Quarantine
from vernal_worker.store.reading import Reading

if TYPE_CHECKING:  # imported where something is written or deleted: who reads is in a hurry
    from vernal_worker.store.collect import Garbage
    from vernal_worker.store.remove import Removal
    from vernal_worker.store.staging import Publication, Staging

LEASE_TTL = 15.0
"""Shorter than the shortest cold start: a worker watches a dead holder's heartbeat only while it starts (seconds)."""

STORAGE_SECONDS = 30.0
"""How long a look at the store, or a small file there, may take: what its users give as `patience`."""

GRACE = 3600.0

SETTLED = 120.0
"""How long two machines may see a directory differently: twice what an NFS mount remembers by default (`acdirmax`; one
reads a pointer that is gone, the other does not see the first's lease yet; seconds)."""


class Lookup(msgspec.Struct, frozen=True):
    """What `Store.find` found: an artifact, or the reason for none with a message for people."""

    artifact: Artifact | None
    reason: Reason | None = None  # NO_ARTIFACT, HOST_MISMATCH, QUARANTINED or RENEWAL_ASKED
    message: str = ""
    seconds_left: float = 0.0
    """If it is quarantined: until a new checkpoint may be made."""
    doubted: bool = False
    """Whether thaws of the artifact, or of one before it, have failed: to be forgiven (`Store.forgive`) if this one
    works."""
    reading: Reading | None = None
    """From `Store.open`: to be released when the thaw has ended."""
    view: View | None = None
    """From `Store.open`, where the artifact is the node cache's: to be released when the thaw has ended."""

    def release(self) -> None:
        """What `Store.open` holds."""
        for held in (self.view, self.reading):
            if held is not None:
                held.release()


class Store:
    """The store under `root`, which must exist: it is where the volume is mounted.

    Args:
        restore_attempts: failures of one generation before it is quarantined, that is, treated as absent.
        patience: seconds after which a call that the storage does not answer ends with `STORE_SLOW`; None for ever.
        cancel: such a call ends with `THAW_GIVEN_UP` when it is set.
        signing_key: artifacts must be signed with it, and are; None to take any.
        user: on whose behalf artifacts are published and read; they stay until `remove` is called for the last user.
        renew: generations that are treated as absent, so that they are replaced; who reads one goes on.
        cached: looks for an artifact in the node cache; never raises.
    """

    def __init__(
        self,
        root: Path,
        *,
        restore_attempts: int = 3,
        patience: float | None = None,
        cancel: threading.Event | None = None,
        signing_key: bytes | None = None,
        user: str = "",
        renew: Collection[str] = (),
        cached: Callable[[Manifest], View | None] = lambda content: None,
    ) -> None:
        self.root = root
        self.user = user
        self._cached = cached
        self._signing_key, self._renew = signing_key, frozenset(renew)
        self.restore_attempts = restore_attempts
        self._touch = Touch(patience, cancel)

    def check(self) -> None:
        """Raises:
        StoreError: stage find: `STORE_UNAVAILABLE`: there is no store.
        """
        self._touch("find", self.root.stat)

    def find(self, identity: IdentityInputs, host: HostTuple) -> Lookup:
        """The current artifact of exactly this identity that fits this host: one that was made on such a host, or else
        one that needs no more than is here.

        Raises:
            StoreError: stage find: `STORE_UNAVAILABLE`, `MANIFEST_MISSING`, `MANIFEST_INVALID`, `FORMAT_UNSUPPORTED`;
                with `generation` set where one is broken, for `record_failure`.
        """
        while True:
            try:
                return self._touch("find", lambda: self._find(identity, host))
            except StoreError as error:
                broken = error
            if not self._touch("find", lambda: self._collected(identity, broken)):  # noqa: B023  # called at once
                raise broken

    def open(self, identity: IdentityInputs, host: HostTuple, owner: Owner) -> Lookup:
        """As `find`; what is found is not deleted before its `reading` is released. If the storage takes no lease (it
        is read-only, or full) there is none, and the grace period has to do. Where the node cache has it, it is that.

        Raises:
            StoreError: as `find`.
        """

        def hold(lookup: Lookup, found: Artifact) -> Lookup | None:
            lease: Reading | None = None
            key = Key(self.root, found.manifest.identity, found.manifest.host_tuple)  # it may fit this host and another
            with suppress(OSError):
                if self.user:
                    reading.use(key, self.user)
                lease = reading.read(key, found.generation, owner.pod, LEASE_TTL, self._touch)
            if layout.pointer(key.directory) == found.generation:
                return replace(lookup, artifact=found.with_shared(), reading=lease)
            if lease is not None:  # replaced or collected between the two looks
                lease.release()
            return None

        while True:
            lookup = self.find(identity, host)
            if lookup.artifact is None:
                return lookup
            held = self._touch.acquire("find", partial(hold, lookup, lookup.artifact), Lookup.release)
            if held is None or held.artifact is None:
                continue
            if (view := self._cached(held.artifact.manifest)) is None:
                return held
            return replace(held, artifact=replace(held.artifact, path=view.path), view=view)

    def _find(self, identity: IdentityInputs, host: HostTuple) -> Lookup:
        self.root.stat()
        exact = self._key(identity, host)
        candidates = (
            Candidate(
                generation,
                key.host,
                partial(quarantine.look, key, generation, self.restore_attempts),
                partial(self._load, key, generation),
            )
            for key, generation in self._current(exact)
        )
        found = pick(candidates, lambda artifact: artifact.manifest, exact.identity, host, self._renew)
        if found.content is None:
            return Lookup(None, found.reason, found.message, found.seconds_left)
        key = Key(self.root, exact.identity, found.content.manifest.host_tuple)
        doubted = key.failures(found.content.generation).exists() or (key.directory / quarantine.NAME).exists()
        return Lookup(found.content, doubted=doubted)

    def published(self, identity: IdentityInputs, host: HostTuple) -> str | None:
        """The generation that a worker that starts now would thaw.

        Raises:
            StoreError: as `find`.
        """
        found = self.find(identity, host).artifact
        return None if found is None else found.generation

    def _collected(self, identity: IdentityInputs, broken: StoreError) -> bool:
        """Whether what is broken has ceased to be current since it was looked at: it is on its way out."""
        if broken.generation is None or broken.host is None:
            return False
        return layout.pointer(self._key(identity, broken.host).directory) != broken.generation

    def _current(self, exact: Key) -> list[tuple[Key, str]]:
        """Generations of an identity that are current, for any host: that for exactly this one first, then the
        newest."""
        directory = layout.identity_directory(self.root, exact.identity)
        found = []
        for name in layout.names(directory):
            if (generation := layout.pointer(directory / name)) is not None:
                found.append((Key(self.root, exact.identity, name), generation))
        return sorted(found, key=lambda each: (each[0].directory == exact.directory, each[1]), reverse=True)

    def candidates(self, identity: IdentityInputs) -> list[Artifact]:
        """The current artifacts of this identity for any host tuple, newest first. Broken ones are left out.

        Raises:
            StoreError: stage find: `STORE_UNAVAILABLE`.
        """
        found = []
        with guard("find"):
            directory = layout.identity_directory(self.root, digest(identity))
            for name in layout.names(directory):
                if (generation := layout.pointer(directory / name)) is not None:
                    try:
                        found.append(artifacts.load(directory / name / generation))
                    except StoreError:
                        continue
        return sorted(found, key=lambda a: a.generation, reverse=True)

    def artifacts(self) -> list[Artifact]:
        """Every current artifact, of any identity and host tuple, newest first. Broken ones are left out.

        Raises:
            StoreError: stage find: `STORE_UNAVAILABLE`.
        """
        found = []
        with guard("find"):
            self.root.stat()
            for below in layout.key_directories(self.root):
                if (generation := layout.pointer(below)) is not None:
                    try:
                        found.append(artifacts.load(below / generation))
                    except StoreError:
                        continue
        return sorted(found, key=lambda a: a.generation, reverse=True)

    def stage(self, identity: IdentityInputs, host: HostTuple) -> "Staging":
        """A new empty staging directory.

        Raises:
            StoreError: stage stage: `STORE_FULL`, `STORE_READ_ONLY`, `STORE_UNAVAILABLE`.
        """

        def make() -> "Staging":
            from vernal_worker.store.staging import Staging

            self.root.stat()
            return Staging(self.root, identity, host, self._usable, self._touch, self._signing_key, self.user)

        from vernal_worker.store import collect

        with suppress(StoreError):  # to remove much may take longer than a call may: that goes on beside the freeze
            self._touch("gc", lambda: collect.sweep(self.root, GRACE))
        return self._touch("stage", make)

    def publish(
        self,
        staging: "Staging",
        *,
        created_by: str,
        lease: Held | None = None,
        timings: Mapping[str, float] | None = None,
        blobs: Mapping[str, Sequence[str]] | None = None,
        timeout: float | None = None,
        cancel: threading.Event | None = None,
    ) -> "Publication":
        """Make what is staged current, for all who use the store: see `Staging.publish`."""
        return staging.publish(
            created_by=created_by, lease=lease, timings=timings, blobs=blobs, timeout=timeout, cancel=cancel
        )

    @property
    def contents(self) -> Contents:
        """What is known about big files outside of the store."""
        return Contents(self.root)

    def lease(self, identity: IdentityInputs, host: HostTuple, owner: Owner, *, ttl: float = LEASE_TTL) -> Request:
        """Ask to be the one who freezes for this identity and host tuple. All workers must use the same `ttl`."""
        return LeaseRequest(self._key(identity, host), owner, ttl, self._touch)

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
        """Remember one thaw of `generation` that did not end in a ready worker; returns whether it is given up now.
        `host`: the artifact's, or `StoreError.host`.

        Raises:
            StoreError: stage failures.
        """
        key = self._key(identity, host)

        def record() -> Quarantine | None:
            failures.record(key, generation, stage=stage, reason=reason, message=message, worker=worker, node=node)
            return quarantine.look(key, generation, self.restore_attempts)

        return self._touch("failures", record)

    def forgive(self, identity: IdentityInputs, host: HostTuple, generation: str) -> None:
        """A thaw of `generation` ended in a ready worker: what failed before does not count any more.

        Raises:
            StoreError: stage failures.
        """
        self._touch("failures", lambda: quarantine.forgive(self._key(identity, host), generation))

    def failures(self, identity: IdentityInputs, host: HostTuple, generation: str) -> list[Failure]:
        """What `record_failure` wrote, oldest first.

        Raises:
            StoreError: stage failures.
        """
        return self._touch("failures", lambda: failures.load(self._key(identity, host), generation))

    def remove(
        self, identity_digest: str, host_digest: str = "", *, grace: float | None = None, patience: float = 0.0
    ) -> "Removal":
        """Delete the artifacts of an identity, of one host tuple or of all, that nobody but `user` uses; then what
        nobody needs any more (`gc`). For the janitor. From the first moment nobody finds them any more; who reads one
        is waited for.

        Args:
            grace: seconds for which machines may still see what is gone; None for what the file system needs.
            patience: seconds to wait for readers, and for a worker that makes a checkpoint.

        Raises:
            StoreError: stage gc.
            ValueError: not a digest.
        """
        from vernal_worker.store import collect
        from vernal_worker.store.remove import remove

        with guard("gc"):
            self.root.stat()
            if grace is None:
                grace = 0.0 if fs.mount(self.root)[0] in fs.LOCAL else SETTLED
            done = remove(
                self.root, identity_digest, host_digest, self.user, grace=grace, patience=patience, sleep=time.sleep
            )
            rest = collect.gc(self.root, GRACE)
            return replace(done, bytes=done.bytes + sum(item.bytes for item in rest))

    def gc(self, *, grace: float = GRACE, dry: bool = False) -> "list[Garbage]":
        """Delete what nobody can need: stagings that nobody has written to for `grace` seconds, generations that have
        not been current for `grace` seconds and that nobody reads, leases without a heartbeat for as long, blobs that
        no artifact has. Returns what was deleted, or with `dry` what would be. A generation that is found not to be
        current for the first time is only marked.

        A reader is protected by its lease (`open`); one that could not write any, by `grace`. All times are the
        storage's.

        Raises:
            StoreError: stage gc.
        """
        from vernal_worker.store import collect

        with guard("gc"):
            self.root.stat()
            return collect.gc(self.root, grace, dry=dry)

    def _key(self, identity: IdentityInputs, host: HostTuple | str) -> Key:
        return Key(self.root, digest(identity), host if isinstance(host, str) else digest(host))

    def _usable(self, key: Key) -> Artifact | None:
        """The current artifact, unless it is to be replaced: asked for, broken or quarantined."""
        generation = layout.pointer(key.directory)
        if generation is None or generation in self._renew:
            return None
        if quarantine.look(key, generation, self.restore_attempts) is not None:
            return None
        try:
            return self._load(key, generation)
        except StoreError:
            return None

    def _load(self, key: Key, generation: str) -> Artifact:
        found = artifacts.load(key.directory / generation, self._signing_key)
        known = found.manifest
        if known.identity != key.identity or known.host_tuple[: layout.HOST_DIGITS] != key.host[: layout.HOST_DIGITS]:
            message = f"{generation}/manifest.json is of another identity or host tuple"
            raise StoreError(Reason.MANIFEST_INVALID, "find", message, generation=generation)
        return found
