"""Four GPUs: one engine on all of them in any order, four workers of one checkpoint at once, two on two GPUs each."""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from gpu_pods import NO_NVLINK, StartPod, compile_cache, only, tokens
from worker_pod import Pod

pytestmark = pytest.mark.four_gpus

BESIDE = {"gpuMemoryUtilization": 0.3, "kvCacheMemoryBytes": 4 << 30}
"""Engines that start side by side on the same GPUs: nothing is measured by what is free there."""
SPREADS = {
    "TP4": {"tensorParallelSize": 4},
    "PP2xTP2": {"pipelineParallelSize": 2, "tensorParallelSize": 2},
    "TP2": {"tensorParallelSize": 2},
    "TP1": {},
}


class Made:
    """What a creator left: its store, and its answer."""

    def __init__(self, name: str, work: Path, cache: Path, start_pod: StartPod) -> None:
        self._arguments, self._store, self._start_pod = BESIDE | SPREADS[name], work / f"store-{name}", start_pod
        self._store.mkdir()
        self._environment = compile_cache(cache / name)  # none compiles what another has mapped
        self._creator = self.start(**({"setup": only(0)} if name == "TP1" else {}))
        self._answer: list[int] = []

    def start(self, **options: Any) -> Pod:
        return self._start_pod(self._store, engine_args=self._arguments, engine_env=self._environment, **options)

    def answer(self) -> list[int]:
        """The creator's, which is gone afterwards."""
        if not self._answer:
            state = self._creator.wait_ready()
            assert state.freeze is not None and state.freeze.outcome == "Published", self._creator.log()
            print("frozen", state.freeze.seconds, "timings", state.timings)
            self._answer = tokens(self._creator)
            self._creator.end()
        return self._answer

    def thaw(self, starts: Sequence[dict[str, Any]]) -> list[Pod]:
        """All at once; they are gone afterwards."""
        expected = self.answer()
        began = time.monotonic()
        pods = [self.start(**options) for options in starts]
        try:
            for pod in pods:
                state = pod.wait_ready()
                assert state.start_mode == "Restored", f"{state.restore_failures}\n{pod.log()}"
                print(f"ready after {time.monotonic() - began:.2f} s, timings", state.timings)
                assert tokens(pod) == expected
        finally:
            for pod in pods:
                pod.end()
        return pods


@pytest.fixture(scope="module")
def made(work: Path, cache: Path, start_pod: StartPod) -> dict[str, Made]:
    """One of each, started side by side."""
    return {name: Made(name, work, cache, start_pod) for name in SPREADS}


@pytest.mark.parametrize("order", ["0,1,2,3", "2,0,3,1"])
@pytest.mark.parametrize("name", ["TP4", "PP2xTP2"])
def test_one_engine_on_four_in_any_order(name: str, order: str, made: dict[str, Made]) -> None:
    (pod,) = made[name].thaw([{"environment": {"CUDA_VISIBLE_DEVICES": order}}])
    assert NO_NVLINK not in pod.log()


def test_four_workers_of_one_checkpoint_at_once(made: dict[str, Made]) -> None:
    made["TP1"].thaw([{"setup": only(gpu)} for gpu in range(4)])


def test_two_workers_on_two_gpus_each_at_once(made: dict[str, Made]) -> None:
    made["TP2"].thaw([{"environment": {"CUDA_VISIBLE_DEVICES": both}} for both in ("0,1,2,3", "2,3,0,1")])
