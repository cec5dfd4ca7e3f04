#!/usr/bin/env python3
"""Cold starts of vLLM with each of its ways to load weights, and a thaw, of the same bytes: seconds to the first token,
and those of loading weights as vLLM tells them.

Compile cache and page cache are warm; with `--dropped` each has starts with the page cache dropped, too. The loaders
are vLLM's: `fastsafetensors` and `runai_streamer` need the packages of these names."""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import statistics
import time
from pathlib import Path
from typing import Any

import ceilings
import measure
from common.progress import say
from models.shapes import make_weights
from report import line, machine

SETTLED = 2.0
"""Seconds: what was written later than so long before a start is read again by the next one."""

LOADERS = ("safetensors", "fastsafetensors", "runai_streamer")
LOADED = re.compile(r"Model loading took [\d.]+ GiB(?: memory)? and ([\d.]+) seconds")


class Bench:
    """What is found is in `loaders.json` after each start."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        self._arguments, self._work, self._out = arguments, arguments.work, arguments.out
        self._model = measure.prepare(self._work, self._out, "small" if arguments.cpu else arguments.shape)
        self._store: Path = self._work / "store-loaders"
        cpu: dict[str, Any] = {"engine_args": {}}
        self._options = cpu if arguments.cpu else measure.gpu_options(self._work)
        self._engine: dict[str, Any] = self._options.pop("engine_args")
        self._found: dict[str, Any] = {"machine": machine(), "starts": {}}

    def run(self) -> None:
        self._found["bytes"] = make_weights(self._model.name.removeprefix("model-"), self._model)
        say(f"{self._found['bytes'] / 1e9:.1f} GB of weights")
        time.sleep(2 * SETTLED)
        shutil.rmtree(self._store, ignore_errors=True)
        self._store.mkdir(parents=True)
        self._start("freeze", "safetensors", policy="Auto")
        for _ in range(self._arguments.turns):
            for loader in self._arguments.loaders:
                self._start(loader, loader)
            self._start("thaw", "safetensors", policy="Auto")
        for _ in range(self._arguments.dropped):  # when all others are done: what they need is read from the disk again
            for loader in self._arguments.loaders:
                ceilings.drop_caches()
                self._start(f"{loader}, page cache dropped", loader)
            ceilings.drop_caches()
            self._start("thaw, page cache dropped", "safetensors", policy="Auto")
        shutil.rmtree(self._store)
        for name, rows in self._found["starts"].items():
            tokens = sorted(row["first_token"] for row in rows)
            spread = f"{statistics.median(tokens):.2f} ({tokens[0]:.2f} to {tokens[-1]:.2f}, {len(tokens)})"
            loading = [row["loading"] for row in rows if row["loading"] is not None]
            said = f", of which loading {statistics.median(loading):.2f}" if loading else ""
            say(f"{name}: first token after {spread} s{said}")

    def _start(self, name: str, loader: str, policy: str = "Disabled") -> None:
        every = self._found["starts"].setdefault(name, [])
        safe = re.sub(r"[^a-z0-9]+", "-", f"{name}-{len(every)}")
        pod, result = measure.start(
            safe, self._work / "logs", self._store, self._model, Path(os.environ["VERNAL_CRIU"]),
            engine_args=self._engine | {"loadFormat": loader},
            checkpoint={"restore_attempts": 99, "policy": policy}, **self._options,
        )  # fmt: skip
        measure.stop(pod)
        loading = LOADED.search(result.log) if result.mode == "Cold" else None
        row = {
            "first_token": result.first_token,
            "mode": result.mode,
            "loading": float(loading[1]) if loading else None,
        }
        every.append(row)
        (self._out / "loaders.json").write_text(json.dumps(self._found, indent=1) + "\n")
        say(f"   {name}: loading {row['loading']} s; {line(result)}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cpu", action="store_true", help="vLLM for CPUs and a small model")
    parser.add_argument("--shape", default="8b", help="on a GPU (default: 8b, 16.4 GB)")
    parser.add_argument("--loaders", nargs="+", default=LOADERS, help=f"vLLM's load formats (default: {LOADERS})")
    parser.add_argument("--turns", type=int, default=3, help="of each (default: 3)")
    parser.add_argument("--dropped", type=int, default=0, help="so many more of each, with the page cache dropped")
    parser.add_argument("--work", type=Path, required=True, help="directory on the disk to be measured")
    parser.add_argument("--out", type=Path, required=True, help="where to leave loaders.json")
    Bench(parser.parse_args()).run()


if __name__ == "__main__":
    main()
