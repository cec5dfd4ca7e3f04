#!/usr/bin/env python3
"""One engine on two GPUs: thaws, and throughput beside an engine that was never frozen."""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import shutil
import statistics
import threading
import time
from pathlib import Path
from typing import Any

import measure
from gpu_pods import mounted
from models.shapes import make_shape
from run import GPU_ENGINE, artifact, line, say

TURNS, SECONDS, CLIENTS, PROMPT, ANSWER = 7, 4.0, 48, 512, 128
SMALL = {"gpuMemoryUtilization": 0.12}
"""For an engine beside one that uses most of the memory: still several times what the requests need."""


class Load:
    """So many clients that ask one worker all the time, for a `with` statement."""

    def __init__(self, pod: Any) -> None:
        self._pod = pod
        self._end = threading.Event()
        self._threads = [threading.Thread(target=self._client, args=[number]) for number in range(CLIENTS)]

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        for thread in self._threads:
            thread.join()

    def tokens_a_second(self) -> float:
        """Of prompts and answers, as vLLM counts them, for some seconds from now."""
        count, began = self._tokens(), time.monotonic()
        time.sleep(SECONDS)
        return (self._tokens() - count) / (time.monotonic() - began)

    def _tokens(self) -> float:
        _, text = self._pod.ask("GET", "/metrics")
        names = r"vllm:(?:prompt|generation)_tokens_total"
        return sum(float(value) for value in re.findall(rf"^{names}{{[^}}]*}} (\S+)$", text.decode(), re.MULTILINE))

    def _client(self, number: int) -> None:
        draw = random.Random(number + time.time())  # no prompt has another's beginning
        while not self._end.is_set():
            body = {
                "model": "tiny",
                "prompt": draw.choices(range(150000), k=PROMPT),
                "max_tokens": ANSWER,
                "temperature": 0,
                "ignore_eos": True,
            }
            self._pod.ask("POST", "/v1/completions", body)


def compare(pods: dict[str, Any]) -> dict[str, list[float]]:
    """Tokens a second of workers that take turns."""
    found: dict[str, list[float]] = {name: [] for name in pods}
    for turn in range(TURNS + 1):
        for name, pod in pods.items():
            with Load(pod) as load:
                time.sleep(1.0)
                rate = load.tokens_a_second()
            if turn:  # the first one is for warming up
                found[name].append(round(rate))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shape", default="0.6b")
    parser.add_argument("--carriers", nargs="*", default=["nvlink", "host"], choices=["nvlink", "host"])
    parser.add_argument("--plain", action="store_true", help="compare with an engine that was never frozen")
    parser.add_argument("--thaws", type=int, default=3, help="in each order of the GPUs")
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    work, model = arguments.work, arguments.work / f"model-{arguments.shape}"
    (work / "logs").mkdir(parents=True, exist_ok=True)
    arguments.out.mkdir(parents=True, exist_ok=True)
    make_shape(arguments.shape, model)
    cache = work / "compile-cache"
    cache.mkdir(exist_ok=True)
    machine = {k: v for k, v in os.environ.items() if k.startswith(("NCCL_", "NVSHMEM_", "TORCH_SYMM_"))}
    environment = machine | {
        "VLLM_USE_FLASHINFER_SAMPLER": "0",
        "VLLM_ALLREDUCE_USE_SYMM_MEM": "0",
        "VLLM_CACHE_ROOT": str(cache / "vllm"),
        "TRITON_CACHE_DIR": str(cache / "triton"),
        "TORCHINDUCTOR_CACHE_DIR": str(cache / "inductor"),
    }
    criu = Path(os.environ["VERNAL_CRIU"])
    results: dict[str, Any] = {}

    def start(name: str, store: Path, carrier: str, policy: str = "Auto", **options: Any) -> Any:
        began = time.monotonic()
        pod, result = measure.start(
            name,
            work / "logs",
            store,
            model,
            criu,
            engine_args=GPU_ENGINE | {"tensorParallelSize": 2} | options.pop("engine_args", {}),
            engine_env=environment | ({} if policy == "Disabled" else {"VERNAL_COLLECTIVES": carrier}),
            checkpoint={"policy": policy, "restore_attempts": 99},
            setup=mounted(cache),
            **options,
        )
        results[name] = {"first_token": result.first_token, "timings": result.timings, "tokens": result.tokens}
        say(f"{name}: {line(result)} ({time.monotonic() - began:.0f} s)")
        return pod

    plain: Any = None
    for carrier in arguments.carriers:
        store = work / f"store-pair-{carrier}"
        shutil.rmtree(store, ignore_errors=True)
        store.mkdir()
        measure.stop(start(f"{carrier}-cold", store, carrier))
        say(f"   artifact {artifact(store)}")
        for number in range(arguments.thaws):
            for order in ("0,1", "1,0"):
                name = f"{carrier}-thaw-{order.replace(',', '')}-{number}"
                measure.stop(start(name, store, carrier, environment={"CUDA_VISIBLE_DEVICES": order}))
        if arguments.plain:
            thawed = start(f"{carrier}-thaw-serving", store, carrier)
            plain = plain or start("plain", store, "", policy="Disabled", engine_args=SMALL)
            rates = compare({carrier: thawed, "plain": plain})
            ratio = statistics.median(a / b for a, b in zip(rates[carrier], rates["plain"], strict=True))
            results[f"{carrier}-throughput"] = rates | {"ratio": ratio}
            say(f"   tokens a second {rates}: ratio {ratio:.3f} (median of {TURNS})")
            measure.stop(thawed)
        shutil.rmtree(store)
        (arguments.out / "pair.json").write_text(json.dumps(results, indent=1) + "\n")
    if plain is not None:
        measure.stop(plain)


if __name__ == "__main__":
    main()
