"""What a freeze that failed is called."""

import pytest
from vernal_contract.reasons import Reason
from vernal_worker.control.client import CallCancelledError, RefusedError, TimedOutError
from vernal_worker.supervisor.creation import _explained


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (
            RefusedError("StoreWeights: Exception: [Errno 28] No space left on device"),
            Reason.STORE_FULL,
        ),
        (RefusedError("StoreWeights: OSError: [Errno 122] Disk quota exceeded"), Reason.STORE_FULL),
        (RefusedError("Quiesce: RuntimeError: a request is still running"), Reason.ENGINE_UNRESPONSIVE),
        (TimedOutError("Quiesce: no answer from the engine in time"), Reason.ENGINE_UNRESPONSIVE),
        (CallCancelledError("Quiesce: given up"), Reason.FREEZE_GIVEN_UP),
    ],
)
def test_what_the_engine_says_of_the_storage_is_the_storage_s(error: Exception, reason: Reason) -> None:
    found, message = _explained(error)  # type: ignore[arg-type]
    assert (found, message) == (reason, str(error))
