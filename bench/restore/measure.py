"""One worker at a time in a pod of its own, and what it took until the first token."""

from __future__ import annotations

import contextlib
import json
import os
import re
import sys
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
for place in ("contract", "worker_image", "e2e", "worker_image/tests/worker", "worker_image/tests/gpu"):
    sys.path.insert(0, str(ROOT / place))

from gpu_pods import NO_NVLINK, compile_cache, machine_settings, mounted  # noqa: E402
from models.shapes import make_shape  # noqa: E402
from vernal_contract.config import CheckpointConfig  # noqa: E402
from worker_pod import Pod  # noqa: E402

PROMPT = list(range(100, 132))
TOKENS = 16
GPU_ENGINE: dict[str, Any] = {
    "dtype": "bfloat16",
    "loadFormat": "dummy",
    "maxModelLen": 4096,
    "maxNumSeqs": 64,
    "gpuMemoryUtilization": 0.85,
    "kvCacheMemoryBytes": None,
    "numGpuBlocksOverride": None,
    "enforceEager": False,
    "seed": 0,
}
_EXEC_AT = 'echo "exec-at $(date +%s.%N)" >&2'


@dataclass
class Start:
    """One start of a worker. Seconds from the supervisor's exec."""

    mode: str
    first_token: float
    answer: float
    tokens: list[int]
    timings: dict[str, float]
    freeze: dict[str, Any] | None = None
    begun: dict[str, float] = field(default_factory=dict)
    nvlink: bool = True  # as far as its log says
    log: str = field(default="", repr=False)


def prepare(work: Path, out: Path, shape: str) -> Path:
    """Make the directories of a bench with GPUs in `work`, and `out`; the model's."""
    for directory in (work / "logs", work / "compile-cache", out):
        directory.mkdir(parents=True, exist_ok=True)
    model = work / f"model-{shape}"
    make_shape(shape, model)
    return model


def gpu_options(work: Path) -> dict[str, Any]:
    """Of `start`, for an engine on GPUs: what it compiles is in `work` and a volume of its pod."""
    cache = work / "compile-cache"
    own = {"VLLM_USE_FLASHINFER_SAMPLER": "0", "VLLM_ALLREDUCE_USE_SYMM_MEM": "0"}
    return {
        "engine_args": dict(GPU_ENGINE),
        "engine_env": machine_settings() | compile_cache(cache) | own,
        "setup": mounted(cache),
    }


def start(name: str, logs: Path, store: Path, model: Path, criu: Path, **options: Any) -> tuple[Pod, Start]:
    """Start a worker, and ask it until it answers. The pod runs on. An engine is warmed up before it is frozen, as a
    pool's is unless it says otherwise. `beside`: what a pod needs until then, such as a way to a server."""
    options["checkpoint"] = {"warm_up_seconds": CheckpointConfig().warm_up_seconds, **options.get("checkpoint", {})}
    beside: Callable[[Pod], AbstractContextManager[object]] = options.pop("beside", contextlib.nullcontext)
    pod = Pod(
        name, logs / f"{name}.log", store, model, criu, setup=options.pop("setup", ":") + f"; {_EXEC_AT}", **options
    )
    try:
        with beside(pod):
            first, last, tokens = _ask(pod, deadline=time.monotonic() + 600)
        state = pod.state()
    except BaseException:
        pod.end()
        raise
    found = re.search(r"exec-at ([\d.]+)", pod.log())
    assert found is not None, pod.log()
    began = float(found[1])
    freeze = {"outcome": state.freeze.outcome, "seconds": state.freeze.seconds} if state.freeze else None
    setup = began - _started(pod.init)  # the worker counts from there: process 1 was the shell that made the pod
    begun = {name: instant - setup for name, instant in state.begun.items()}
    log = pod.log()
    seconds = (first - began, last - began)
    mode, timings = state.start_mode or "?", dict(state.timings)
    result = Start(mode, *seconds, tokens, timings, freeze, begun, NO_NVLINK not in log, log)
    if freeze and freeze["outcome"] == "Failed":
        raise RuntimeError(f"the freeze failed: {state.freeze}\n{log[-6000:]}")
    return pod, result


def _started(pid: int) -> float:
    """Wall-clock instant of a process's start, to a 100th of a second."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    started = int(fields[19]) / os.sysconf("SC_CLK_TCK")  # field 22 of proc(5), "starttime"
    return time.time() - time.clock_gettime(time.CLOCK_BOOTTIME) + started


def stop(pod: Pod) -> None:
    pod.end()
    time.sleep(0.3)  # the driver tidies up after a process that was killed


def _ask(pod: Pod, deadline: float) -> tuple[float, float, list[int]]:
    """Wall-clock instants of the first token and of the last one, and the tokens."""
    while True:
        if not pod.alive():
            raise RuntimeError(f"{pod.name} exited with {pod.wait()}:\n{pod.log()[-8000:]}")
        if time.monotonic() > deadline:
            raise RuntimeError(f"{pod.name} is not ready:\n{pod.log()[-8000:]}")
        with contextlib.suppress(OSError, AssertionError):
            return _stream(pod)
        time.sleep(0.004)


def request(pod: Pod, prompt: list[int]) -> float:
    """Seconds from asking a worker that is ready to its first token."""
    asked = time.time()
    return _stream(pod, prompt)[0] - asked


def _stream(pod: Pod, prompt: list[int] = PROMPT) -> tuple[float, float, list[int]]:
    with contextlib.closing(pod.http(timeout=300)) as connection:
        body = {
            "model": "tiny",
            "prompt": prompt,
            "max_tokens": TOKENS,
            "temperature": 0,
            "ignore_eos": True,
            "stream": True,
            "return_token_ids": True,
        }
        connection.request("POST", "/v1/completions", json.dumps(body), {"Content-Type": "application/json"})
        answer = connection.getresponse()
        assert answer.status == 200, answer.read()
        first, tokens = 0.0, list[int]()
        for line in answer:
            if line.startswith(b"data: {"):
                choice = json.loads(line[6:])["choices"][0]
                first = first or time.time()
                tokens += choice.get("token_ids") or []
        return first, time.time(), tokens
