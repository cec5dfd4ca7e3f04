"""Two GPUs: a thaw on the other one, two thaws at once, and one engine on both."""

from pathlib import Path
from typing import Any

import pytest
from gpu_pods import NO_NVLINK, StartPod, only, tokens
from vernal_worker.checkpoint.cuda.client import CudaHelper
from worker_pod import Pod

pytestmark = pytest.mark.two_gpus

REFUSED = "cannot be taken over"
"""What an engine's log says if the driver refuses the helper's memory."""


@pytest.fixture(scope="module")
def creator(start_pod: StartPod, store: Path) -> Pod:
    pod = start_pod(store, setup=only(0))
    assert pod.wait_ready().freeze is not None
    return pod


def test_a_thaw_on_the_other_gpu_and_two_at_once(creator: Pod, store: Path, start_pod: StartPod) -> None:
    host = creator.state().host
    assert host is not None and host.gpu_count == 1, creator.log()
    expected = tokens(creator)
    thawed = [start_pod(store, setup=only(gpu)) for gpu in (1, 0)]
    for pod in thawed:
        state = pod.wait_ready()
        assert state.start_mode == "Restored", pod.log()
        assert "weights" in state.timings, "the helper filled memory while CRIU worked, also on a GPU that is new to it"
        print("timings", state.timings)
        assert REFUSED not in pod.log(), "not even on a GPU that it did not know when it was frozen"
        assert tokens(pod) == expected
    for pod in (creator, *thawed):
        pod.end()


def by_environment(gpu: int) -> dict[str, Any]:
    """A container that has all GPUs, as a privileged one, and is to use one of them."""
    return {"environment": {"CUDA_VISIBLE_DEVICES": str(gpu)}}


def free() -> list[int]:
    """Bytes of each GPU, in CUDA's order."""
    helper = CudaHelper()
    try:
        helper.ask_room(())
        return list(helper.room().free)
    finally:
        helper.close()


def taken(before: list[int]) -> list[int]:
    """GPUs on which an engine came after `before` was looked at."""
    return [number for number, (old, new) in enumerate(zip(before, free(), strict=True)) if old - new > 8 << 30]


def test_selected_by_environment(work: Path, start_pod: StartPod) -> None:
    """Frozen where device 0 was selected, thawed where it is device 1, and the other way round again."""
    store = work / "store-environment"
    store.mkdir()
    before = free()
    creator = start_pod(store, **by_environment(0))
    state = creator.wait_ready()
    assert state.freeze is not None and state.freeze.outcome == "Published", creator.log()
    assert taken(before) == [0]
    expected = tokens(creator)
    for gpu in (1, 0):
        between = free()
        pod = start_pod(store, **by_environment(gpu))
        state = pod.wait_ready()
        assert state.start_mode == "Restored", pod.log()
        print("selected", gpu, "timings", state.timings)
        assert tokens(pod) == expected
        assert taken(between) == [gpu], f"it is on another GPU than {gpu}"
        pod.end()
    creator.end()


def test_a_cold_start_that_is_not_to_be_frozen_is_on_the_gpu_that_is_selected(work: Path, start_pod: StartPod) -> None:
    before = free()
    pod = start_pod(work, checkpoint={"policy": "Disabled"}, **by_environment(1))
    pod.wait_ready()
    assert taken(before) == [1]
    pod.end()


@pytest.mark.parametrize("spread", ["tensorParallelSize", "pipelineParallelSize"])
def test_one_engine_on_both_in_either_order(spread: str, work: Path, start_pod: StartPod) -> None:
    both, store = {spread: 2}, work / f"store-{spread}"
    store.mkdir()
    creator = start_pod(store, engine_args=both)
    state = creator.wait_ready()
    assert state.freeze is not None and state.freeze.outcome == "Published", creator.log()
    expected = tokens(creator)
    creator.end()
    for order in ("0,1", "1,0"):  # on a machine with more GPUs the others follow
        pod = start_pod(store, engine_args=both, environment={"CUDA_VISIBLE_DEVICES": order})
        state = pod.wait_ready()
        assert state.start_mode == "Restored", pod.log()
        print(spread, "order", order, "timings", state.timings)
        assert REFUSED not in pod.log() and NO_NVLINK not in pod.log()
        assert tokens(pod) == expected
        pod.end()
