"""The one exception of this package, and how errors of the storage become one."""

import errno
from collections.abc import Iterator
from contextlib import contextmanager

from vernal_contract.reasons import Reason

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
    """

    def __init__(self, reason: Reason, stage: str, message: str, *, generation: str | None = None) -> None:
        super().__init__(f"{reason} in stage {stage}: {message}")
        self.reason = reason
        self.stage = stage
        self.message = message
        self.generation = generation


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
