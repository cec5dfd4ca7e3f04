"""Writing an artifact: a private directory first, then one rename and one pointer."""

import threading
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from thaw_contract.state import FreezeOutcome

from thaw_worker.store.artifact import Artifact
from thaw_worker.store.lease import Lease


@dataclass(frozen=True)
class Publication:
    """`artifact` is what is current now: ours (`PUBLISHED`) or the other worker's (`PUBLISHED_BY_OTHER`)."""

    outcome: FreezeOutcome
    artifact: Artifact


class Staging:
    """An artifact being written: put files under `dir`, then `publish` or `discard`."""

    dir: Path

    def publish(
        self,
        *,
        created_by: str,
        lease: Lease | None = None,
        timings: Mapping[str, float] | None = None,
        threads: int | None = None,
        cancel: threading.Event | None = None,
    ) -> Publication:
        """Hash and sync every file, write the manifest, make it current. The staging is gone afterwards,
        also on failure.

        Raises:
            StoreError: stage publish: `STORE_FULL`, `STORE_READ_ONLY`, `STORE_UNAVAILABLE`, `LEASE_LOST`.
        """
        raise NotImplementedError

    def discard(self) -> None:
        """Remove it. Never raises; twice is fine."""
        raise NotImplementedError
