"""A published artifact."""

import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from thaw_contract.config import Verify
from thaw_contract.state import ArtifactRef

from thaw_worker.store.manifest import Manifest


@dataclass(frozen=True)
class Artifact:
    """A generation in the store; `path` is its directory."""

    path: Path
    manifest: Manifest

    def ref(self) -> ArtifactRef: ...

    def verify(
        self,
        level: Verify = Verify.FULL,
        *,
        threads: int | None = None,
        timeout: float | None = None,
        cancel: threading.Event | None = None,
        on_progress: Callable[[int, int], None] | None = None,
    ) -> None:
        """Check presence, kind and size of every file, that there is no other file, and (`FULL`) every byte.

        Reads through the page cache and so leaves it warm for CRIU.

        Args:
            threads: 0 < n; None for one a core, 16 at most.
            timeout: give up after so many seconds.
            cancel: give up when set.
            on_progress: called now and then from this thread with bytes done and bytes in all.

        Raises:
            StoreError: stage verify: `FILE_MISSING`, `FILE_SIZE_MISMATCH`, `DIGEST_MISMATCH` (also for an
                extra file), `STORE_SLOW` (timeout), `STORE_UNAVAILABLE`; the message names the file.
        """
