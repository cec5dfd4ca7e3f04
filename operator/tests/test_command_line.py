"""What the operator's command line takes for a node cache."""

import pytest
from vernal_operator.main import _parser, main


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


def test_prefetch(capsys: pytest.CaptureFixture[str]) -> None:
    found = _parser().parse_args(["run", "-A", "--node-cache=/c", "--prefetch=8", "--prefetch-at-once=2"])
    assert (found.prefetch, found.prefetch_at_once) == (8, 2)
    for arguments in (["-A", "--prefetch=1"], ["-n", "ns", "--node-cache=/c", "--prefetch=1"]):
        with pytest.raises(SystemExit):
            main(["run", *arguments])
        assert "--prefetch: needs --node-cache, and -A" in capsys.readouterr().err
    for number in ("-1", "101", "many"):
        with pytest.raises(SystemExit):
            _parser().parse_args(["run", "-A", f"--prefetch={number}"])
    with pytest.raises(SystemExit):
        _parser().parse_args(["run", "-A", "--prefetch-at-once=0"])
    assert "from 1 to 100" in capsys.readouterr().err, "none at a time would be none at all, and nobody told"


@pytest.mark.parametrize("size", ["", "much", "0", "-1Gi"])
def test_a_size_that_is_none_is_refused(size: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parsed(f"--node-cache-size={size}")
    assert repr(size) in capsys.readouterr().err
