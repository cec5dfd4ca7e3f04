"""The one exception of this package, and how errors of the storage become one."""

import errno
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import msgspec
from vernal_contract.reasons import Reason

from vernal_worker.parallel import aside

T = TypeVar("T")

_REASONS = {
    errno.ENOSPC: Reason.STORE_FULL,
    errno.EDQUOT: Reason.STORE_FULL,
    errno.EROFS: Reason.STORE_READ_ONLY,
    errno.EACCES: Reason.STORE_READ_ONLY,
    errno.EPERM: Reason.STORE_READ_ONLY,
}


class StoreError(Exception):
    """The store, or an artifact in it, cannot be used.

    Attributes:
        reason: the word that users see; `vernal_contract.reasons.NEXT_STEP` says what to do.
        stage: the step that failed: find, verify, stage, publish, lease, failures or gc.
        message: names the file.
        generation: the artifact's generation where one is concerned.
        host: where that one cannot be read, what is known of its host tuple's digest.
    """

    def __init__(self, reason: Reason, stage: str, message: str, *, generation: str | None = None) -> None:
        super().__init__(f"{reason} in stage {stage}: {message}")
        self.reason = reason
        self.stage = stage
        self.message = message
        self.generation = generation
        self.host: str | None = None


@contextmanager
def guard(stage: str) -> Iterator[None]:
    """Turn an `OSError` into a `StoreError`: full, read-only, or (any other, such as EIO and ESTALE) unavailable."""
    try:
        yield
    except OSError as e:
        raise from_os(e, stage) from e


def from_os(error: OSError, stage: str) -> StoreError:
    """What an error of the storage is called."""
    reason = _REASONS.get(error.errno or 0, Reason.STORE_UNAVAILABLE)
    return StoreError(reason, stage, f"{error.filename or 'store'}: {error.strerror or error}")


class Touch(msgspec.Struct, frozen=True):
    """How long a call may wait for the storage: see `Store`."""

    patience: float | None = None
    cancel: threading.Event | None = None

    def __call__(self, stage: str, work: Callable[[], T], *, patience: float | None = None) -> T:
        """What `work` returns. `patience`: for this call.

        Raises: StoreError.
        """
        seconds = self.patience if patience is None else patience
        with guard(stage):
            if seconds is None:
                return work()
            deadline = time.monotonic() + seconds

            def tick() -> None:
                if self.cancel is not None and self.cancel.is_set():
                    raise StoreError(Reason.THAW_GIVEN_UP, stage, "cancelled")
                if time.monotonic() > deadline:
                    raise StoreError(Reason.STORE_SLOW, stage, f"the storage has not answered for {seconds:g} s")

            return aside(work, tick)

    def acquire(self, stage: str, attempt: Callable[[], T | None], release: Callable[[T], None]) -> T | None:
        """What `attempt` gets. What it gets when nobody waits for it any more is given back.

        Raises: StoreError.
        """
        nobody_waits = threading.Event()

        def acquire() -> T | None:
            got = attempt()
            if got is not None and nobody_waits.is_set():
                release(got)
            return got

        try:
            return self(stage, acquire)
        except StoreError:
            nobody_waits.set()
            raise
