"""The one exception of this package."""

from thaw_contract.reasons import Reason


class StoreError(Exception):
    """The store, or an artifact in it, cannot be used.

    Attributes:
        reason: the word that users see; `thaw_contract.reasons.NEXT_STEP` says what to do.
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
