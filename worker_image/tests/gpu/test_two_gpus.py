"""Two GPUs: a thaw on the other one, two thaws at once, and one engine on both."""

from pathlib import Path
from typing import Any

import pytest
from gpu_pods import StartPod, tokens
from worker_pod import Pod

pytestmark = pytest.mark.two_gpus


def only(gpu: int) -> str:
    """Shell: a /dev with one GPU, as a device plugin gives it to a container."""
    return (
        "mkdir /tmp/dev && mount -n -t tmpfs tmpfs /tmp/dev && "
        "cp -a $(ls -d /dev/* | grep -vE '^/dev/(nvidia[0-9]+|shm|pts|mqueue|hugepages|vd.*|fd)$') /tmp/dev/ && "
        f"cp -a /dev/nvidia{gpu} /tmp/dev/ && "
        "mkdir -p /tmp/dev/shm /tmp/dev/pts && ln -sfn /proc/self/fd /tmp/dev/fd && "
        "mount -n --bind /dev/pts /tmp/dev/pts && mount -n --move /dev/shm /tmp/dev/shm && "
        "mount -n --move /tmp/dev /dev && mount -n -o remount,ro /dev"  # or the driver makes the other node
    )


@pytest.fixture(scope="session")
def creator(start_pod: StartPod, store: Path) -> Pod:
    pod = start_pod(store, setup=only(0))
    assert pod.wait_ready().freeze is not None
    return pod


def test_a_thaw_on_the_other_gpu_and_two_at_once(creator: Pod, store: Path, start_pod: StartPod) -> None:
    assert creator.state().host is not None and creator.state().host.gpu_count == 1, creator.log()
    expected = tokens(creator)
    thawed = [start_pod(store, setup=only(gpu)) for gpu in (1, 0)]
    for pod in thawed:
        state = pod.wait_ready()
        assert state.start_mode == "Restored", pod.log()
        print("timings", state.timings)
        assert tokens(pod) == expected
    for pod in (creator, *thawed):
        pod.end()


TWO: dict[str, Any] = {"tensorParallelSize": 2}


@pytest.fixture(scope="module")
def pair(work: Path, start_pod: StartPod) -> tuple[Path, list[int]]:
    store = work / "store-pair"
    store.mkdir()
    pod = start_pod(store, engine_args=TWO)
    state = pod.wait_ready()
    assert state.freeze is not None and state.freeze.outcome == "Published", pod.log()
    expected = tokens(pod)
    pod.end()
    return store, expected


@pytest.mark.parametrize("order", ["0,1", "1,0"])
def test_one_engine_on_both_in_either_order(pair: tuple[Path, list[int]], order: str, start_pod: StartPod) -> None:
    store, expected = pair
    pod = start_pod(store, engine_args=TWO, environment={"CUDA_VISIBLE_DEVICES": order})
    state = pod.wait_ready()
    assert state.start_mode == "Restored", pod.log()
    print("order", order, "timings", state.timings)
    assert tokens(pod) == expected
    pod.end()
