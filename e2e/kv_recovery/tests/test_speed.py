"""The table of `python -m kv_recovery.speed`, at a size that takes no time."""

from pathlib import Path

import pytest
from kv_recovery import speed


def test_every_step_is_measured_for_each_number_of_threads(tmp_path: Path) -> None:
    """What is measured is a load that succeeds: with a block less it raises."""
    setting = speed.Setting(tmp_path, count=8, layers=2, slots=4)
    lines: list[str] = []
    speed.table(setting, setting, [1, 3], 1, lines.append)
    assert [line.split()[:2] for line in lines[2:]] == [["1", "threads"], ["3", "threads"]]
    setting.store.path(setting.blocks[5].key).unlink()
    loading = speed.Loading(setting, 2)
    with pytest.raises(RuntimeError, match="missing"):
        loading.seconds()
    loading.close()
