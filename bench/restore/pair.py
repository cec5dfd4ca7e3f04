#!/usr/bin/env python3
"""One engine on two GPUs: thaws, and throughput beside an engine that was never frozen."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import threading
import time
from pathlib import Path
from typing import Any

import measure
from models.shapes import make_shape
from run import GPU_ENGINE, artifact, line, say

SETS: dict[str, dict[str, str]] = {
    "all": {},
    "p2p": {"NCCL_P2P_DISABLE": "0"},
    "shm": {"NCCL_SHM_DISABLE": "0"},
}
"""Which settings of the freeze are taken back."""


def throughput(pod: Any, seconds: float = 8.0, clients: int = 48, prompt: int = 512, answer: int = 128) -> float:
    """Tokens a second, of prompts and answers, with so many requests in flight."""
    done: list[int] = []
    until = time.monotonic() + seconds

    def client(number: int) -> None:
        turn = 0
        while time.monotonic() < until:
            turn += 1
            body = {
                "model": "tiny",
                "prompt": [(number * 7919 + turn * 104729 + i * 31) % 150000 for i in range(prompt)],
                "max_tokens": answer,
                "temperature": 0,
                "ignore_eos": True,
            }
            status, _ = pod.ask("POST", "/v1/completions", body)
            if status == 200 and time.monotonic() < until:
                done.append(prompt + answer)

    threads = [threading.Thread(target=client, args=[number]) for number in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return sum(done) / seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shape", default="0.6b")
    parser.add_argument("--sets", nargs="*", default=["all"], choices=sorted(SETS))
    parser.add_argument("--plain", action="store_true", help="an engine that was never frozen too")
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    work, model = arguments.work, arguments.work / f"model-{arguments.shape}"
    (work / "logs").mkdir(parents=True, exist_ok=True)
    arguments.out.mkdir(parents=True, exist_ok=True)
    make_shape(arguments.shape, model)
    cache = work / "compile-cache"
    machine = {k: v for k, v in os.environ.items() if k.startswith(("NCCL_", "NVSHMEM_", "TORCH_SYMM_"))}
    environment = machine | {
        "VLLM_USE_FLASHINFER_SAMPLER": "0",
        "VLLM_ALLREDUCE_USE_SYMM_MEM": "0",
        "VLLM_CACHE_ROOT": str(cache / "vllm"),
        "TRITON_CACHE_DIR": str(cache / "triton"),
        "TORCHINDUCTOR_CACHE_DIR": str(cache / "inductor"),
    }
    criu = Path(os.environ["THAW_CRIU"])
    results: dict[str, Any] = {}

    def one(name: str, store: Path, load: bool, policy: str = "Auto", **options: Any) -> None:
        began = time.monotonic()
        environment_here = environment | options.pop("engine_env", {})
        try:
            pod, result = measure.start(
                name,
                work / "logs",
                store,
                model,
                criu,
                engine_args=GPU_ENGINE | {"tensorParallelSize": 2},
                engine_env=environment_here,
                checkpoint={"policy": policy, "restore_attempts": 99},
                **options,
            )
        except RuntimeError as error:
            say(f"{name}: FAILED after {time.monotonic() - began:.0f} s: {str(error)[-1500:]}")
            results[name] = {"failed": str(error)[-1500:]}
            return
        entry: dict[str, Any] = {"first_token": result.first_token, "timings": result.timings, "tokens": result.tokens}
        if load:
            throughput(pod, 2.0)
            entry["tokens_a_second"] = [throughput(pod) for _ in range(2)]
        measure.stop(pod)
        results[name] = entry
        say(f"{name}: {line(result)} {entry.get('tokens_a_second', '')} ({time.monotonic() - began:.0f} s)")

    store = work / "store-pair"
    for name in arguments.sets:
        shutil.rmtree(store, ignore_errors=True)
        store.mkdir()
        extra = {"engine_env": SETS[name]}
        one(f"{name}-cold", store, load=False, **extra)
        with contextlib.suppress(ValueError):
            say(f"   artifact {artifact(store)}")
            one(f"{name}-thaw-01", store, load=True, environment={"CUDA_VISIBLE_DEVICES": "0,1"}, **extra)
            one(f"{name}-thaw-10", store, load=False, environment={"CUDA_VISIBLE_DEVICES": "1,0"}, **extra)
    if arguments.plain:
        one("plain", store, load=True, policy="Disabled")
    (arguments.out / "pair.json").write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
