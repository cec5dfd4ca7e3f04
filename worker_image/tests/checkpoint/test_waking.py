"""Some processes of a tree run before the others, which stand still until their memory is there."""

from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.integration


@pytest.fixture
def frozen(pods: Any) -> Any:
    """Its memory is in files; the root's children are forked, and so have their parent's, too."""
    source = pods()
    root = source.launch(ballast_mib=64)
    before = source.ask("state")
    pids = source.freeze("image")["pids"]
    return root, [pid for pid in pids if pid != root], before


def same(before: dict[str, Any], after: dict[str, Any]) -> bool:
    return {**before, "count": 0} == {**after, "count": 0}


def test_the_others_stand_still_and_go_on(pods: Any, frozen: Any) -> None:
    root, children, before = frozen
    pod = pods()
    timings = pod.thaw("image", first=children)
    states, filled = pod.ahead_saw()
    assert states[str(root)] == ["T"], "one of its threads ran"
    assert [state for child in children for state in states[str(child)]] == ["S"] * len(children)
    assert filled == {str(root): False} | {str(child): True for child in children}
    assert timings["memory_rest"] > 0 < timings["criu"] < timings["total"]
    assert same(before, pod.ask("state"))
    assert not [row for row in pod.processes() if row.startswith("T")]


def test_the_root_can_be_first(pods: Any, frozen: Any) -> None:
    root, children, before = frozen
    pod = pods()
    pod.thaw("image", first=[root])
    states, filled = pod.ahead_saw()
    assert "T" not in states[str(root)] and filled[str(root)]
    assert [states[str(child)] for child in children] == [["T"]] * len(children)
    assert same(before, pod.ask("state"))


def test_nothing_is_left_if_the_work_fails(pods: Any, frozen: Any, pod_error: Any) -> None:
    _, children, before = frozen
    pod = pods()
    with pytest.raises(pod_error, match="no such GPU") as caught:
        pod.thaw("image", first=children, failure="no such GPU")
    assert (caught.value.reason, caught.value.stage) == ("CudaRestoreFailed", "cuda")
    assert pod.processes() == []
    pod.thaw("image")
    assert same(before, pod.ask("state"))


def test_nothing_is_left_if_memory_of_the_others_is_bad(
    pods: Any, frozen: Any, pod_error: Any, frozen_in: Any, tmp_path: Path
) -> None:
    root, children, _ = frozen
    (tmp_path / "image" / "sizes.json").rename(tmp_path / "sizes.json")
    memories = frozen_in(tmp_path / "image").memory
    (tmp_path / "sizes.json").rename(tmp_path / "image" / "sizes.json")
    (late,) = (memory for memory in memories if memory.pid == root)
    with (tmp_path / "image" / late.file).open("r+b") as file:
        file.truncate(late.bytes - 4096)
    pod = pods()
    with pytest.raises(pod_error, match="ends early") as caught:
        pod.thaw("image", first=children)
    assert (caught.value.reason, caught.value.stage) == ("FileSizeMismatch", "memory")
    assert pod.processes() == []
