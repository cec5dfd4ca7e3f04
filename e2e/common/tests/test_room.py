"""A disk that is too full is told before anything is begun."""

from pathlib import Path

import pytest
from common.room import ensure_room
from common.tools import ToolError


def test_a_full_disk_is_named_with_what_wants_it(tmp_path: Path) -> None:
    ensure_room(tmp_path, 1e-6, "nothing much")
    with pytest.raises(ToolError, match=rf"the cluster needs 1e\+09 GiB on the disk of {tmp_path}, where .* are free"):
        ensure_room(tmp_path / "not" / "there", 1e9, "the cluster")
