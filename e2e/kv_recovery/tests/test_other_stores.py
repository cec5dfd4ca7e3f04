"""Damaged blocks, here and in vLLM's own file tier, of the version that is installed."""

from pathlib import Path

import pytest
from kv_recovery import other_stores


@pytest.mark.parametrize("case", other_stores.CASES, ids=lambda case: case.name)
def test_here_no_damaged_block_is_taken_for_a_good_one(case: other_stores.Case, tmp_path: Path) -> None:
    found = other_stores.outcome(case, other_stores.Ours, tmp_path)
    assert found == other_stores.RIGHT if case.name == "nothing" else found.startswith("refused: ")


@pytest.mark.integration
def test_vllms_own_tier_runs_beside_it(tmp_path: Path) -> None:
    """It reads what it wrote; what it makes of damage is for the table to say, not for us to fix."""
    assert other_stores.outcome(other_stores.CASES[0], other_stores.Theirs, tmp_path) == other_stores.RIGHT
    lines: list[str] = []
    other_stores.matrix(tmp_path / "matrix", lines.append)
    assert len(lines) == 1 + len(other_stores.CASES)
