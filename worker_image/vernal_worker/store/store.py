"""The store: look up, stage, lease, failures, clean-up."""

import threading
from dataclasses import dataclass
from pathlib import Path

from vernal_contract.identity import HostTuple, IdentityInputs, digest, misfits
from vernal_contract.reasons import Reason

from vernal_worker.store import artifact as artifacts
from vernal_worker.store import collect, failures, layout, quarantine
from vernal_worker.store.artifact import Artifact
from vernal_worker.store.errors import StoreError, Touch, guard
from vernal_worker.store.failures import Failure
from vernal_worker.store.layout import Key
from vernal_worker.store.lease import LeaseRequest, Owner
from vernal_worker.store.quarantine import Quarantine
from vernal_worker.store.staging import Staging

LEASE_TTL = 15.0
"""Shorter than the shortest cold start: a worker watches a dead holder's heartbeat only while it starts (seconds)."""

GRACE = 3600.0


@dataclass(frozen=True)
class Lookup:
    """What `Store.find` found: an artifact, or the reason for none with a message for people."""

    artifact: Artifact | None
    reason: Reason | None = None  # NO_ARTIFACT, HOST_MISMATCH or QUARANTINED
    message: str = ""
    seconds_left: float = 0.0
    """If it is quarantined: until a new checkpoint may be made."""
    doubted: bool = False
    """Whether thaws of the artifact, or of one before it, have failed: to be forgiven (`Store.forgive`) if this one
    works."""


class Store:
    """The store under `root`, which must exist: it is where the volume is mounted.

    Args:
        restore_attempts: failures of one generation before it is quarantined, that is, treated as absent.
        patience: seconds after which a call that the storage does not answer ends with `STORE_SLOW`; None for ever.
        cancel: such a call ends with `THAW_GIVEN_UP` when it is set.
        signing_key: artifacts must be signed with it, and are; None to take any.
    """

    def __init__(
        self,
        root: Path,
        *,
        restore_attempts: int = 3,
        patience: float | None = None,
        cancel: threading.Event | None = None,
        signing_key: bytes | None = None,
    ) -> None:
        self.root = root
        self._signing_key = signing_key
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
        return self._touch("find", lambda: self._find(identity, host))

    def _find(self, identity: IdentityInputs, host: HostTuple) -> Lookup:
        self.root.stat()
        broken: StoreError | None = None
        refused: Lookup | None = None
        strange: list[Artifact] = []
        for key, generation in self._current(self._key(identity, host)):
            given_up = quarantine.look(key, generation, self.restore_attempts)
            try:
                found = self._load(key, generation)
            except StoreError as error:
                error.host = key.host
                broken = broken or (error if given_up is None else None)
            else:
                if misfits(found.manifest.host, host):
                    strange.append(found)
                    continue
                if given_up is None:
                    doubted = key.failures(generation).exists() or (key.directory / quarantine.NAME).exists()
                    return Lookup(found, doubted=doubted)
            if given_up is not None:
                refused = refused or Lookup(None, Reason.QUARANTINED, given_up.message, given_up.seconds_left)
        if broken is not None:
            raise broken
        if refused is not None:
            return refused
        if strange:
            lines = "; ".join(misfits(strange[0].manifest.host, host))
            return Lookup(None, Reason.HOST_MISMATCH, f"{strange[0].generation} is for another host: {lines}")
        return Lookup(None, Reason.NO_ARTIFACT, f"no artifact of identity {digest(identity)}")

    def _current(self, exact: Key) -> list[tuple[Key, str]]:
        """Generations of an identity that are current, for any host: that for exactly this one first, then the
        newest."""
        directory = layout.identity_directory(self.root, exact.identity)
        found = []
        for below in directory.iterdir() if directory.is_dir() else ():
            if (generation := layout.pointer(below)) is not None:
                found.append((Key(self.root, exact.identity, below.name), generation))
        return sorted(found, key=lambda each: (each[0].directory == exact.directory, each[1]), reverse=True)

    def candidates(self, identity: IdentityInputs) -> list[Artifact]:
        """The current artifacts of this identity for any host tuple, newest first. Broken ones are left out.

        Raises:
            StoreError: stage find: `STORE_UNAVAILABLE`.
        """
        found = []
        with guard("find"):
            directory = layout.identity_directory(self.root, digest(identity))
            for below in directory.iterdir() if directory.is_dir() else ():
                if (generation := layout.pointer(below)) is not None:
                    try:
                        found.append(artifacts.load(below / generation))
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
            for current in self.root.glob(f"{layout.ARTIFACTS}/*/*/{layout.CURRENT}"):
                try:
                    found.append(artifacts.load(current.resolve()))
                except StoreError:
                    continue
        return sorted(found, key=lambda a: a.generation, reverse=True)

    def stage(self, identity: IdentityInputs, host: HostTuple) -> Staging:
        """A new empty staging directory.

        Raises:
            StoreError: stage stage: `STORE_FULL`, `STORE_READ_ONLY`, `STORE_UNAVAILABLE`.
        """

        def make() -> Staging:
            self.root.stat()
            return Staging(self.root, identity, host, self._usable, self._touch, self._signing_key)

        return self._touch("stage", make)

    def lease(self, identity: IdentityInputs, host: HostTuple, owner: Owner, *, ttl: float = LEASE_TTL) -> LeaseRequest:
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

    def remove(self, identity_digest: str) -> int:
        """Delete every artifact of an identity; returns the bytes freed. For the janitor: nothing uses it any more.

        Raises:
            StoreError: stage gc.
            ValueError: not a digest.
        """
        directory = layout.identity_directory(self.root, identity_digest)
        with guard("gc"):
            self.root.stat()
            if not directory.exists():
                return 0
            freed = sum(size or 0 for size in artifacts.list_files(directory).values())
            collect.delete(self.root, directory)
            return freed

    def gc(self, *, grace: float = GRACE) -> list[str]:
        """Delete what nobody can need: stagings that nobody has written to for `grace` seconds, generations that have
        not been current for `grace` seconds, leases without a heartbeat for as long. Returns what was deleted,
        relative to the root. A generation that is found not to be current for the first time is only marked.

        A reader is protected by `grace`: it takes a generation from the pointer and is done with it when its thaw has
        ended, so `grace` must be longer than any thaw or freeze may take. All times are the storage's.

        Raises:
            StoreError: stage gc.
        """
        with guard("gc"):
            self.root.stat()
            return collect.gc(self.root, grace)

    def _key(self, identity: IdentityInputs, host: HostTuple | str) -> Key:
        return Key(self.root, digest(identity), host if isinstance(host, str) else digest(host))

    def _usable(self, key: Key) -> Artifact | None:
        """The current artifact, unless it is broken or quarantined and so to be replaced."""
        generation = layout.pointer(key.directory)
        if generation is None or quarantine.look(key, generation, self.restore_attempts) is not None:
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
