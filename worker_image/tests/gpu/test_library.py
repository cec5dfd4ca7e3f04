"""CheckpointableAsyncLLM on GPUs: the program in its README, and how fast it is beside AsyncLLM."""

import itertools
import json
import os
import shutil
import time
from pathlib import Path

import pytest
from gpu_pods import ENGINE
from programs import THROUGHPUT, freeze_with_readme, report, run
from vernal_contract.engine_args import canonical_name


@pytest.mark.parametrize("gpus", [1, pytest.param(2, marks=pytest.mark.two_gpus)])
def test_the_program_in_the_readme(
    gpus: int, model: Path, environment: dict[str, str], work: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from images.criu import criu_path

    for name, value in {**environment, "VERNAL_CRIU": str(criu_path())}.items():
        monkeypatch.setenv(name, value)
    place = work / f"library-{gpus}"
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir()
    (place / "model").symlink_to(model)
    arguments = {canonical_name(name): value for name, value in ENGINE.items() if value is not None}
    seconds = [time.monotonic()]
    frozen = freeze_with_readme(place, {**arguments, "tensor_parallel_size": gpus})
    for _ in range(2):
        seconds.append(time.monotonic())
        assert run(frozen.program, "thaw", str(frozen.directory)) == frozen.answer
    seconds.append(time.monotonic())
    freeze, *thaws = [round(after - before, 2) for before, after in itertools.pairwise(seconds)]
    print(f"{gpus} GPUs, whole programs, in seconds: freeze {freeze}, thaws {thaws}; cores {os.cpu_count()}")
    if gpus == 1:  # both on the same GPU, in turns
        print(report(run(THROUGHPUT, str(frozen.directory), str(frozen.model), json.dumps(arguments), "512")))
    shutil.rmtree(place)
