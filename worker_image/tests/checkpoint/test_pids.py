"""Where the kernel takes the next PID from."""

from pathlib import Path

import pytest
from vernal_worker.checkpoint import doctor, pids


@pytest.mark.parametrize(("said", "last"), [("-1\n", 0), ("0\n", 0), ("10044\n", 10044)])
def test_what_the_kernel_says_can_be_said_to_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, said: str, last: int
) -> None:
    """It says -1 where none was given out since a thaw, and refuses to be told that."""
    file = tmp_path / "ns_last_pid"
    file.write_text(said)
    monkeypatch.setattr(pids, "LAST_PID", file)
    assert pids.last() == last
    assert doctor._last_pid().ok
    assert file.read_text().startswith(str(last)), "the doctor changes nothing"
