"""What the operator's command line takes for a node cache."""

import pytest
from vernal_operator.main import _parser


def parsed(*arguments: str) -> tuple[str, int]:
    found = _parser().parse_args(["run", "-A", *arguments])
    return found.node_cache, found.node_cache_size


def test_a_node_cache() -> None:
    assert parsed() == ("", 100 << 30)
    assert parsed("--node-cache=/mnt/nvme0/vernal", "--node-cache-size=2Ti") == ("/mnt/nvme0/vernal", 2 << 40)


@pytest.mark.parametrize("directory", ["/", "relative", "/a/../etc", "/a//b", "/a/", "/.", "/a b"])
def test_a_directory_that_leads_elsewhere_is_refused(directory: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parsed(f"--node-cache={directory}")
    assert repr(directory) in capsys.readouterr().err


@pytest.mark.parametrize("size", ["", "much", "0", "-1Gi"])
def test_a_size_that_is_none_is_refused(size: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parsed(f"--node-cache-size={size}")
    assert repr(size) in capsys.readouterr().err
