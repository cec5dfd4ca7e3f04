"""Damaged blocks, here and in vLLM's own file tier, of the version that is installed."""

from pathlib import Path

import pytest
from kv_recovery import beside


@pytest.mark.parametrize("case", beside.CASES, ids=lambda case: case.name)
def test_here_no_damaged_block_is_taken_for_a_good_one(case: beside.Case, tmp_path: Path) -> None:
    found = beside.outcome(case, beside.Ours, tmp_path)
    assert found == beside.RIGHT if case.name == "nothing" else found.startswith("refused: ")


@pytest.mark.integration
def test_vllms_own_tier_runs_beside_it(tmp_path: Path) -> None:
    """It reads what it wrote; what it makes of damage is for the table to say, not for us to fix."""
    assert beside.outcome(beside.CASES[0], beside.Theirs, tmp_path) == beside.RIGHT
    lines: list[str] = []
    beside.matrix(tmp_path / "matrix", lines.append)
    assert len(lines) == 1 + len(beside.CASES)
