#!/usr/bin/env python3
"""Workers of one checkpoint that thaw at once on the GPUs of one machine: seconds to the first token of each."""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import measure
from common.progress import say
from gpu_pods import only
from report import artifact, line, machine
from vernal_worker.checkpoint.gpu import gpus


class Bench:
    """What is found is in `at-once.json` after each step."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        self._arguments, self._work = arguments, arguments.work
        self._out: Path = arguments.out
        self._model = measure.prepare(self._work, self._out, arguments.shape)
        self._store = (arguments.store or self._work) / f"store-{arguments.shape}-{arguments.each}"
        self._options = measure.gpu_options(self._work)
        own = {"gpuMemoryUtilization": arguments.memory, "maxNumSeqs": arguments.seqs}
        if arguments.each > 1:
            own["tensorParallelSize"] = arguments.each
        self._options["engine_args"] |= own
        self._found: dict[str, Any] = {
            "machine": machine(),
            "arguments": {k: str(v) for k, v in vars(arguments).items()},
        }

    def run(self) -> None:
        shutil.rmtree(self._store, ignore_errors=True)
        self._store.mkdir(parents=True)
        measure.stop(self._start("cold", 0)[0])
        self._found["artifact"] = artifact(self._store)
        for turn in range(self._arguments.turns):
            for count in self._arguments.counts:
                self._at_once(count, turn)
        shutil.rmtree(self._store)
        for count in self._arguments.counts:
            rows = self._found[f"{count} at once"]
            last = statistics.median(max(row["first token"]) for row in rows)
            say(f"{count} at once, {len(rows)} turns: the last first token after {last:.2f} s (median)")

    def _at_once(self, count: int, turn: int) -> None:
        with ThreadPoolExecutor(count) as threads:
            starts = list(threads.map(lambda number: self._start(f"{count}-{turn}-{number}", number), range(count)))
        for pod, _ in starts:
            measure.stop(pod)
        assert len({tuple(start.tokens) for _, start in starts}) == 1, "all of them answer the same"
        row = {
            "first token": sorted(round(start.first_token, 3) for _, start in starts),
            "timings": [start.timings for _, start in starts],
        }
        self._found.setdefault(f"{count} at once", []).append(row)
        (self._out / "at-once.json").write_text(json.dumps(self._found, indent=1) + "\n")
        say(f"   {count} at once: {row['first token']}")

    def _start(self, name: str, number: int) -> tuple[Any, measure.Start]:
        each, there = self._arguments.each, gpus().count
        own = [(number * each + place) % there for place in range(each)]
        others = [gpu for gpu in range(there) if gpu not in own]
        options = dict(self._options)
        if each == 1:
            options["setup"] += f" && {only(own[0])}"
        else:
            options["environment"] = {"CUDA_VISIBLE_DEVICES": ",".join(map(str, own + others))}
        pod, result = measure.start(
            name, self._work / "logs", self._store, self._model, Path(os.environ["VERNAL_CRIU"]),
            checkpoint={"restore_attempts": 99}, **options,
        )  # fmt: skip
        say(f"{name} on {own}: {line(result)}")
        return pod, result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shape", default="8b")
    parser.add_argument("--each", type=int, default=1, help="GPUs of a worker: tensor parallel")
    parser.add_argument(
        "--counts", type=int, nargs="*", default=[1, 2, 4], help="workers at once; more than GPUs share"
    )
    parser.add_argument("--memory", type=float, default=0.85, help="share of a GPU for a worker")
    parser.add_argument("--seqs", type=int, default=64, help="sequences of a worker, for which it captures graphs")
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--store", type=Path, help="for checkpoints instead of --work: a tmpfs, say")
    parser.add_argument("--out", type=Path, required=True)
    Bench(parser.parse_args()).run()


if __name__ == "__main__":
    main()
