#!/usr/bin/env python3
"""The first request of a thawed engine beside those after it, by the length of its prompt: seconds to the first token.

An engine that has to compile, load or allocate something for its first request would be slower then. Each length has a
thaw of its own in each turn, and no prompt has another's beginning. The engine that was frozen is asked as well, when
it goes on: what its first request of a length takes more than its next is no matter of thawing."""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import statistics
from pathlib import Path
from typing import Any

import measure
from common.progress import say
from models.tiny import make_tiny_model
from report import line, machine
from worker_pod import Pod

REQUESTS = 4


class Bench:
    """What is found is in `first-requests.json` after each thaw."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        self._arguments, self._work, self._out = arguments, arguments.work, arguments.out
        self._model = measure.prepare(self._work, self._out, "small" if arguments.cpu else arguments.shape)
        self._store: Path = self._work / "store-first-requests"
        longest = max(arguments.lengths)
        self._options: dict[str, Any] = {"checkpoint": {"restore_attempts": 99}}
        if arguments.cpu:
            make_tiny_model(self._model)
        else:
            self._options |= measure.gpu_options(self._work)
            self._options["engine_args"] |= {"maxModelLen": longest + 192}
        self._words = 500 if arguments.cpu else 150_000
        self._draw = random.Random(0)
        self._found: dict[str, Any] = {
            "machine": machine(),
            "lengths": {str(n): [] for n in arguments.lengths},
            "frozen": {},
        }

    def run(self) -> None:
        shutil.rmtree(self._store, ignore_errors=True)
        self._store.mkdir(parents=True)
        pod, cold = measure.start("cold", self._work / "logs", self._store, self._model, _criu(), **self._options)
        say(f"cold: {line(cold)}")
        try:
            for length in self._arguments.lengths:
                self._found["frozen"][str(length)] = self._ask("the engine that was frozen", pod, length)
            self._keep()
        finally:
            measure.stop(pod)
        for turn in range(self._arguments.turns):
            for length in self._arguments.lengths:
                row = self._thaw(f"thaw-{length}-{turn}", length)
                self._found["lengths"][str(length)].append(row)
                self._keep()
        shutil.rmtree(self._store)
        for length, rows in self._found["lengths"].items():
            first = statistics.median(row[0] for row in rows)
            later = statistics.median(seconds for row in rows for seconds in row[1:])
            ratios = sorted(row[0] / statistics.median(row[1:]) for row in rows)
            spread = f"{statistics.median(ratios):.2f} of them ({ratios[0]:.2f} to {ratios[-1]:.2f}, {len(rows)})"
            frozen = self._found["frozen"][length]
            other = f"{frozen[0] / statistics.median(frozen[1:]):.2f} in the engine that was frozen"
            say(f"{length} tokens: the first {first * 1000:.1f} ms, later ones {later * 1000:.1f}: {spread}, {other}")

    def _keep(self) -> None:
        (self._out / "first-requests.json").write_text(json.dumps(self._found, indent=1) + "\n")

    def _thaw(self, name: str, length: int) -> list[float]:
        """Seconds of each request, in their order."""
        log = self._work / "logs" / f"{name}.log"
        pod = Pod(name, log, self._store, self._model, _criu(), **self._options)
        try:
            assert pod.wait_ready().start_mode == "Restored", pod.log()
            return self._ask(name, pod, length)
        finally:
            measure.stop(pod)

    def _ask(self, name: str, pod: Pod, length: int) -> list[float]:
        row = [measure.request(pod, self._draw.choices(range(10, self._words), k=length)) for _ in range(REQUESTS)]
        say(f"   {name}, {length} tokens: " + ", ".join(f"{seconds * 1000:.1f}" for seconds in row) + " ms")
        return row


def _criu() -> Path:
    return Path(os.environ["VERNAL_CRIU"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cpu", action="store_true", help="vLLM for CPUs and the tiny model")
    parser.add_argument("--shape", default="8b", help="on a GPU (default: 8b)")
    parser.add_argument(
        "--lengths", type=int, nargs="+", help="tokens of a prompt (default: 3 129 2000 8000; on a CPU 3 129 900)"
    )
    parser.add_argument("--turns", type=int, default=6, help="thaws for each length (default: 6)")
    parser.add_argument("--work", type=Path, required=True, help="directory; its contents are replaced")
    parser.add_argument("--out", type=Path, required=True, help="where to leave first-requests.json")
    arguments = parser.parse_args()
    arguments.lengths = arguments.lengths or ([3, 129, 900] if arguments.cpu else [3, 129, 2000, 8000])
    Bench(arguments).run()


if __name__ == "__main__":
    main()
