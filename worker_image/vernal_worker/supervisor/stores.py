"""Where a worker's checkpoints are: in the store, or in a bucket, of which the store has a copy."""

import threading
import time
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vernal_contract.config import CheckpointConfig, CheckpointPolicy, ObjectStoreConfig
from vernal_contract.reasons import Reason

from vernal_worker.store.errors import StoreError
from vernal_worker.store.manifest import Manifest
from vernal_worker.store.node_cache import View
from vernal_worker.store.store import STORAGE_SECONDS, Store
from vernal_worker.supervisor import log, pace

if TYPE_CHECKING:  # imported where a pool has a bucket: most have none, and a start is short
    from vernal_worker.bucket.objects import Objects
    from vernal_worker.bucket.store import Fetch

BUCKET_SECONDS = 60.0
"""As STORAGE_SECONDS, of a bucket, for several small objects."""

_RETRY_SECONDS = 20.0
"""How long what may pass is tried again at such a look: a worker that starts cold instead waits for it."""

_SAID_SECONDS = 5.0


def connect(config: ObjectStoreConfig, credentials: Mapping[str, str], *, retry_seconds: float) -> "Objects":
    """Raises:
    ValueError: it is no bucket, or half of the credentials is missing.
    """
    from vernal_worker.bucket.objects import Objects

    return Objects(
        config.url,
        endpoint=config.endpoint,
        region=config.region,
        retry_seconds=retry_seconds,
        credentials=credentials,
    )


def opened(
    checkpoint: CheckpointConfig,
    credentials: Mapping[str, str],
    *,
    cancel: threading.Event,
    signing_key: bytes | None,
    renew: Collection[str],
    cached: Callable[[Manifest], View | None],
    fetched: "Fetch",
    timing: Callable[[str, float], None],
) -> Store:
    """What `checkpoint` names.

    Args:
        credentials: of the bucket, if it is one: see `bucket.credentials`.
        fetched: see `bucket.store.BucketStore`.
        timing: told how long a fetch, a pull or a push took, by name.

    The others are those of `Store`.
    """
    root = Path(checkpoint.store_path)
    options: dict[str, Any] = {
        "restore_attempts": checkpoint.restore_attempts,
        "cancel": cancel,
        "signing_key": signing_key,
        "user": checkpoint.user,
        "renew": renew,
        "cached": cached,
    }
    if checkpoint.object_store is None or checkpoint.policy is CheckpointPolicy.DISABLED:
        return Store(root, patience=STORAGE_SECONDS, **options)
    from vernal_worker.bucket.objects import RETRY_SECONDS
    from vernal_worker.bucket.store import BucketStore

    def allowed(size: int) -> float:
        return pace.allowance(size, checkpoint.thaw_timeout_seconds)

    return BucketStore(
        root,
        connect(checkpoint.object_store, credentials, retry_seconds=_RETRY_SECONDS),
        transfer=connect(checkpoint.object_store, credentials, retry_seconds=RETRY_SECONDS),
        patience=BUCKET_SECONDS,
        fetched=fetched,
        pull_seconds=allowed,
        on_progress=Transfers(allowed, timing),
        **options,
    )


class Transfers:
    """Says in the log how far a transfer is, every few seconds, and gives one up that a start waits for and that cannot
    be there in time.

    Called as `bucket.store.Progress`.
    """

    def __init__(
        self,
        allowed: Callable[[int], float],
        timing: Callable[[str, float], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._allowed, self._timing, self._clock = allowed, timing, clock
        self._what = ""
        self._began = self._said = 0.0

    def __call__(self, what: str, done: int, size: int) -> None:
        """Raises: StoreError: stage pull: `STORE_SLOW`."""
        now = self._clock()
        if what != self._what:
            self._what, self._began, self._said = what, now, now
            log.event(f"{what}_began", bytes=size)
        seconds = now - self._began
        self._timing(what, seconds)
        if (
            what != "push"
            and (problem := pace.hopeless(done, size, seconds, self._allowed(size) - seconds)) is not None
        ):
            raise StoreError(Reason.STORE_SLOW, what, problem)
        if now - self._said >= _SAID_SECONDS:
            self._said = now
            log.event(f"{what}_progress", bytes=done, of=size, seconds=seconds)
