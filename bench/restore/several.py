#!/usr/bin/env python3
"""One engine on several GPUs: thaws, and throughput beside an engine that was never frozen."""

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
from gpu_pods import NO_NVLINK, compile_cache, machine_settings, mounted
from run import GPU_ENGINE, artifact, line, machine, say

TURNS, SECONDS, CLIENTS, PROMPT, ANSWER = 7, 4.0, 48, 512, 128


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


class Bench:
    """One engine on several GPUs. What is found is in `several.json` after each step."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        self._arguments, self._work = arguments, arguments.work
        self._out: Path = arguments.out
        self._model = measure.prepare(self._work, self._out, arguments.shape)
        self._criu = Path(os.environ["VERNAL_CRIU"])
        self._stores: Path = arguments.store or self._work
        spread = {
            "tensorParallelSize": arguments.gpus // arguments.stages,
            "pipelineParallelSize": arguments.stages,
        }
        self._engine = GPU_ENGINE | {name: count for name, count in spread.items() if count > 1}
        cache = compile_cache(self._work / "compile-cache")
        own = {"VLLM_USE_FLASHINFER_SAMPLER": "0", "VLLM_ALLREDUCE_USE_SYMM_MEM": "0"}
        self._environment = machine_settings() | cache | own
        self._results: dict[str, Any] = {
            "machine": machine(),
            "arguments": {k: str(v) for k, v in vars(arguments).items()},
        }

    def run(self) -> None:
        plain: Any = None
        for carrier in self._arguments.carriers:
            store = self._stores / f"store-{self._arguments.shape}-{self._arguments.gpus}-{carrier}"
            shutil.rmtree(store, ignore_errors=True)
            store.mkdir(parents=True)
            measure.stop(self._start(f"{carrier}-cold", store, carrier))
            self._results["artifact"] = artifact(store)
            say(f"   artifact {self._results['artifact']}")
            for number in range(self._arguments.thaws):
                for order in self._orders():
                    name = f"{carrier}-thaw-{order.replace(',', '')}-{number}"
                    measure.stop(self._start(name, store, carrier, environment={"CUDA_VISIBLE_DEVICES": order}))
            if self._arguments.plain:
                plain = plain or self._start("plain", store, "", policy="Disabled", memory=self._arguments.plain_memory)
            if self._arguments.serve:
                thawed = self._start(f"{carrier}-thaw-serving", store, carrier)
                rates = compare({carrier: thawed, "plain": plain})
                ratio = statistics.median(a / b for a, b in zip(rates[carrier], rates["plain"], strict=True))
                self._keep(f"{carrier}-throughput", rates | {"ratio": ratio})
                say(f"   tokens a second {rates}: ratio {ratio:.3f} (median of {TURNS})")
                measure.stop(thawed)
            shutil.rmtree(store)
        if plain is not None:
            measure.stop(plain)

    def _orders(self) -> list[str]:
        """Of the GPUs: as they were, and so that no rank is where it was."""
        numbers = [str(number) for number in range(self._arguments.gpus)]
        return [",".join(numbers), ",".join(numbers[1:] + numbers[:1])]

    def _start(
        self, name: str, store: Path, carrier: str, policy: str = "Auto", memory: float | None = None, **options: Any
    ) -> Any:
        began = time.monotonic()
        share = memory or self._arguments.memory
        pod, result = measure.start(
            name,
            self._work / "logs",
            store,
            self._model,
            self._criu,
            engine_args=self._engine | {"gpuMemoryUtilization": share},
            engine_env=self._environment | ({} if policy == "Disabled" else {"VERNAL_COLLECTIVES": carrier}),
            checkpoint={"policy": policy, "restore_attempts": 99},
            setup=mounted(self._work / "compile-cache"),
            **options,
        )
        found = {"first_token": result.first_token, "timings": result.timings, "tokens": result.tokens}
        nvlink = NO_NVLINK not in result.log
        self._keep(name, found | {"mode": result.mode, "freeze": result.freeze, "nvlink": nvlink})
        say(f"{name}: {line(result)}{'' if nvlink else ' without NVLink'} ({time.monotonic() - began:.0f} s)")
        return pod

    def _keep(self, name: str, found: Any) -> None:
        self._results[name] = found
        (self._out / "several.json").write_text(json.dumps(self._results, indent=1) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shape", default="0.6b")
    parser.add_argument("--gpus", type=int, default=2, help="of one engine: tensor parallel")
    parser.add_argument("--stages", type=int, default=1, help="of a pipeline, each on its part of the GPUs")
    parser.add_argument("--carriers", nargs="*", default=["nvlink", "host"], choices=["nvlink", "host"])
    parser.add_argument("--plain", action="store_true", help="start an engine that is never frozen, compile cache warm")
    parser.add_argument("--serve", action="store_true", help="with --plain: throughput of a thawed one beside it")
    parser.add_argument("--memory", type=float, default=0.85, help="share of a GPU for an engine that is frozen")
    parser.add_argument("--plain-memory", type=float, default=0.12, help="and for one that is not: both at once")
    parser.add_argument("--thaws", type=int, default=3, help="in each order of the GPUs")
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--store", type=Path, help="for checkpoints instead of --work: a tmpfs, say")
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    if arguments.serve and not arguments.plain:
        parser.error("--serve needs --plain")
    Bench(arguments).run()


if __name__ == "__main__":
    main()
