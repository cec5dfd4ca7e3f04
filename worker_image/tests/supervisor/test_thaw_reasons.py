"""What a failed thaw is called."""

import errno

import msgspec
import pytest
from vernal_contract.reasons import Reason
from vernal_worker.supervisor.thawing import _as_failure


@pytest.mark.parametrize(
    "error, reason",
    [
        (FileNotFoundError(errno.ENOENT, "No such file", "/store/oracle.json"), Reason.FILE_MISSING),
        (OSError(errno.EIO, "Input/output error", "/store/oracle.json"), Reason.STORE_UNAVAILABLE),
        (msgspec.DecodeError("JSON is malformed"), Reason.MANIFEST_INVALID),
    ],
)
@pytest.mark.parametrize("stage", ["cuda", "canary"])
def test_an_artifact_that_went_away_is_not_called_wrong(error: Exception, reason: Reason, stage: str) -> None:
    found = _as_failure(stage, error, ())
    assert found is not None and (found.stage, found.reason) == (stage, reason)
    if isinstance(error, FileNotFoundError):
        assert "oracle.json" in found.message
