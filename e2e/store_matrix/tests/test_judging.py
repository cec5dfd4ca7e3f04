"""The matrix in short, on a plain directory; and that what must not be is seen."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from store_matrix import content, faults, judging
from store_matrix.children import Child, run
from store_matrix.faults import Effort
from store_matrix.places import Directory


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Directory]:
    place = Directory(tmp_path)
    place.open()
    yield place
    place.close()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("fault", ["none", "creator killed", "two creators", "collector beside reader"])
def test_no_run_is_red(place: Directory, fault: str) -> None:
    runs = list(faults.FAULTS[fault](place, Effort(2)))
    assert len(runs) > 1
    assert {run.outcome for run in runs} <= {"published", "refused"}, runs


def artifact(root: Path) -> Path:
    (current,) = root.glob("artifacts/*/*/current")
    return current.resolve()


def test_lost_is_seen(place: Directory) -> None:
    root = place.fresh()
    created = run("create", str(root))
    (artifact(root).parent / "current").unlink()
    assert judging.judge(root, created, "").outcome == "lost"


def test_wrong_bytes_are_seen(place: Directory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where the store's own digests agree with them: the reader knows what was to be written."""
    root = place.fresh()
    created = run("create", str(root))
    files = content.files
    monkeypatch.setattr(content, "files", lambda number: files(number) | {"empty": b"x"})  # a fork has it, too
    assert judging.judge(root, created, "").outcome == "wrong"


def test_half_is_seen(place: Directory) -> None:
    root = place.fresh()
    created = run("create", str(root))
    (artifact(root) / "oracle.json").unlink()
    assert judging.judge(root, created, "").outcome == "half"
    assert judging.judge(root, created, "", damaged=True).outcome == "refused"


def test_leftovers_are_seen(place: Directory) -> None:
    root = place.fresh()
    created = run("create", str(root))
    (root / "blobs" / "stray").touch()
    found = judging.judge(root, created, "")
    assert found.outcome == "leftover" and "blobs/stray" in found.reason


def test_a_child_stops_where_it_is_told(place: Directory) -> None:
    root = place.fresh()
    with Child("create", str(root), hold=[20]) as child:
        assert child.stop().startswith("before call 20: ")
        assert run("read", str(root))["state"] == "none"
        assert child.answer()["outcome"] == "published"
        child.settled()
    assert run("read", str(root))["state"] == "whole"
    assert not Path(f"/proc/{child.pid}").exists()
