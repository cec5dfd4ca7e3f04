"""The store: look up, stage, lease, failures, clean-up."""

from dataclasses import dataclass
from pathlib import Path

from thaw_contract.identity import HostTuple, IdentityInputs
from thaw_contract.reasons import Reason

from thaw_worker.store.artifact import Artifact
from thaw_worker.store.lease import LeaseRequest, Owner
from thaw_worker.store.staging import Staging

LEASE_TTL = 60.0


@dataclass(frozen=True)
class Lookup:
    """What `Store.find` found: an artifact, or the reason for none with a message for people."""

    artifact: Artifact | None
    reason: Reason | None = None  # NO_ARTIFACT, HOST_MISMATCH or QUARANTINED
    message: str = ""


class Store:
    """The store under `root`, which must exist (it is where the volume is mounted).

    Args:
        restore_attempts: failures of one generation before it is quarantined, that is, treated as absent.
    """

    def __init__(self, root: Path, *, restore_attempts: int = 3) -> None:
        self.root = root
        self.restore_attempts = restore_attempts

    def find(self, identity: IdentityInputs, host: HostTuple) -> Lookup:
        """The current artifact for exactly this identity and host tuple.

        Raises:
            StoreError: stage find: `STORE_UNAVAILABLE`, `MANIFEST_MISSING`, `MANIFEST_INVALID`,
                `FORMAT_UNSUPPORTED`; with `generation` set where one is broken, for `record_failure`.
        """
        raise NotImplementedError

    def candidates(self, identity: IdentityInputs) -> list[Artifact]:
        """Readable current artifacts of this identity for any host tuple, newest first."""
        raise NotImplementedError

    def stage(self, identity: IdentityInputs, host: HostTuple) -> Staging:
        """A new empty staging directory.

        Raises:
            StoreError: stage stage: `STORE_FULL`, `STORE_READ_ONLY`, `STORE_UNAVAILABLE`.
        """
        raise NotImplementedError

    def lease(
        self, identity: IdentityInputs, host: HostTuple, owner: Owner, *, ttl: float = LEASE_TTL
    ) -> LeaseRequest:
        """Ask to be the one who freezes for this identity and host tuple."""
        raise NotImplementedError

    def record_failure(
        self,
        identity: IdentityInputs,
        host: HostTuple,
        generation: str,
        *,
        stage: str,
        reason: Reason,
        message: str,
        worker: str,
    ) -> int:
        """Remember one thaw of `generation` that did not end in a ready worker; returns how many there are
        now.

        Raises:
            StoreError: stage failures.
        """
        raise NotImplementedError

    def quarantined(self, identity: IdentityInputs, host: HostTuple, generation: str) -> bool:
        """Whether `generation` has failed `restore_attempts` times."""
        raise NotImplementedError

    def remove(self, identity_digest: str) -> int:
        """Delete every artifact of an identity; returns bytes freed. For the janitor: nothing may use it
        any more."""
        raise NotImplementedError

    def gc(self, *, grace: float = 3600.0) -> list[str]:
        """Delete what nobody can need: stagings that nobody has written to for `grace` seconds, generations
        that have not been current for `grace` seconds, leases of the dead. Returns what was deleted,
        relative to the root.

        A reader is protected by `grace`: it takes a generation from the pointer and is done with it when
        its thaw has ended, so `grace` must be longer than any thaw or freeze may take.
        """
        raise NotImplementedError
