"""The one exception of this package, and what an image's storage did to become one."""

from collections.abc import Iterator
from contextlib import contextmanager

from vernal_contract.reasons import Reason

OTHER_BYTES = "has other bytes than were written"
"""What the message says if a digest is not as it was."""


class CheckpointError(Exception):
    """A launch, freeze or thaw that did not happen.

    Attributes:
        reason: the word that users see; `vernal_contract.reasons.NEXT_STEP` says what to do.
        stage: the step that failed: launch, pids, files, criu, memory, or host.
        message: what happened, ending with the relevant lines of CRIU's log where there is one.
        log_tail: the last lines of CRIU's log, for the worker's own log.
        tree_intact: of a freeze only: False if the tree may have been harmed (CRIU had to be killed) and
            must be replaced; True if it runs on as before.
    """

    def __init__(
        self, reason: Reason, stage: str, message: str, *, log_tail: str = "", tree_intact: bool = True
    ) -> None:
        super().__init__(reason, stage, message)
        self.reason = reason
        self.stage = stage
        self.message = message
        self.log_tail = log_tail
        self.tree_intact = tree_intact

    def __str__(self) -> str:
        return f"{self.reason} in stage {self.stage}: {self.message}"


@contextmanager
def reading(stage: str, file: str) -> Iterator[None]:
    """Around what only reads a file of an image: an `OSError` there speaks of the storage.

    Raises:
        CheckpointError: `FILE_MISSING`, `STORE_UNAVAILABLE` (anything else, such as EIO and ESTALE).
    """
    try:
        yield
    except OSError as e:
        if isinstance(e, FileNotFoundError):
            raise CheckpointError(Reason.FILE_MISSING, stage, f"{file} is missing") from e
        raise CheckpointError(Reason.STORE_UNAVAILABLE, stage, f"{file}: {e.strerror or e}") from e


def ends_early(stage: str, file: str) -> CheckpointError:
    """A file of an image that is shorter than what was written."""
    return CheckpointError(Reason.FILE_SIZE_MISMATCH, stage, f"{file} ends early")
