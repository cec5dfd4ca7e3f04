"""A disk that is too full is told before anything is begun."""

from pathlib import Path

import pytest
from common.room import available_memory, ensure_memory, ensure_room
from common.tools import ToolError


def test_a_full_disk_is_named_with_what_wants_it(tmp_path: Path) -> None:
    ensure_room(tmp_path, 1e-6, "nothing much")
    with pytest.raises(ToolError, match=rf"the cluster needs 1e\+09 GiB on the disk of {tmp_path}, where .* are free"):
        ensure_room(tmp_path / "not" / "there", 1e9, "the cluster")


def test_too_little_memory_is_named_with_what_wants_it_and_what_else_there_is() -> None:
    assert available_memory("MemTotal: 9 kB\nMemAvailable:    3145728 kB\n") == 3.0
    ensure_memory(1e-6, "nothing much", "do nothing")
    with pytest.raises(ToolError, match=r"1e\+09 GiB of memory must be available for two nodes.*, or take one"):
        ensure_memory(1e9, "two nodes", "take one")
