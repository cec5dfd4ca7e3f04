"""Workers with real GPUs. They run where there is one, by `pytest -m gpu worker_image/tests/gpu`."""

import itertools
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from vernal_worker.checkpoint.gpu import gpus

sys.path.insert(0, str(Path(__file__).parents[1] / "worker"))  # for worker_pod
sys.path.insert(0, str(Path(__file__).parents[1] / "client"))  # for programs
sys.path.insert(0, str(Path(__file__).parent))
from gpu_pods import ENGINE, SHAPE, StartPod, compile_cache, machine_settings, mounted
from worker_pod import WARM, Pod

_MARKS = {"four_gpus": 4, "two_gpus": 2}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = Path(__file__).parent
    found = gpus().count
    for item in items:
        if item.path.is_relative_to(here):
            item.add_marker(pytest.mark.gpu)
            wanted = next((count for mark, count in _MARKS.items() if item.get_closest_marker(mark)), 1)
            if found < wanted:
                item.add_marker(pytest.mark.skip(reason=f"needs {wanted} NVIDIA GPU(s), this machine has {found}"))


@pytest.fixture(scope="session")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """On a disk: not /tmp, which pods do not share. VERNAL_GPU_WORK names another directory, whose compile cache is
    kept."""
    path = Path(os.environ.get("VERNAL_GPU_WORK") or tmp_path_factory.mktemp("gpu"))
    path.mkdir(parents=True, exist_ok=True)
    return path


@pytest.fixture(scope="session")
def model(work: Path) -> Path:
    from models.shapes import make_shape

    make_shape(SHAPE, work / f"model-{SHAPE}")
    return work / f"model-{SHAPE}"


@pytest.fixture(scope="session")
def cache(work: Path) -> Path:
    """What engines compile."""
    (work / "compile-cache").mkdir(exist_ok=True)
    return work / "compile-cache"


@pytest.fixture(scope="session")
def environment(cache: Path) -> dict[str, str]:
    """An engine's."""
    return machine_settings() | compile_cache(cache) | {"VLLM_USE_FLASHINFER_SAMPLER": "0"}


@pytest.fixture(scope="session")
def start_pod(
    model: Path, cache: Path, environment: dict[str, str], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[StartPod]:
    """Start a worker on a store; it is taken away at the end of the session, or by `Pod.end`."""
    from images.criu import criu_path

    logs = tmp_path_factory.mktemp("logs")
    pods: list[Pod] = []
    numbers = itertools.count(1)

    def start(store: Path, **options: Any) -> Pod:
        name = f"gpu-pod-{next(numbers)}"
        options["engine_args"] = ENGINE | options.pop("engine_args", {})
        options["setup"] = f"{mounted(cache)} && {options.pop('setup', ':')}"
        options["checkpoint"] = WARM | options.pop("checkpoint", {})
        options["engine_env"] = environment | options.pop("engine_env", {})
        pods.append(Pod(name, logs / f"{name}.log", store, model, criu_path(), **options))
        return pods[-1]

    yield start
    for pod in pods:
        pod.end()


@pytest.fixture(scope="session")
def store(work: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = work / f"store-{os.getpid()}"
    path.mkdir()
    return path
