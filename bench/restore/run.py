#!/usr/bin/env python3
"""Cold starts, freezes and thaws of one machine, measured: `python3 bench/restore/run.py --device gpu --out DIR`.

Thaws take turns: on the GPUs as they were, on others, and with --warm from a copy in memory. An engine has one GPU or
--gpus of them; "others" are then the same ones in another order, in which no rank is where it was. What is found is in
results.json after each start."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import ceilings
import load
import measure
from common.progress import say
from gpu_pods import only
from models.tiny import make_tiny_model
from report import artifact, line, look, machine, zero_share
from worker_pod import Pod

CARRIER = "VERNAL_COLLECTIVES"
HUGE_PAGE = 2 << 20
"""Bytes that even a small file takes on a tmpfs with huge=always."""


class Bench:
    """Runs on one machine, and keeps what it finds in `results.json`."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        self._arguments = arguments
        self._work: Path = arguments.work
        self._out: Path = arguments.out
        self._criu = Path(os.environ["VERNAL_CRIU"])
        self._ends = time.monotonic() + (arguments.limit or float("inf"))
        said = {name: str(value) for name, value in vars(arguments).items() if value is not None}
        self.results: dict[str, Any] = {"machine": machine(), "arguments": said, "runs": {}}

    def run(self) -> None:
        for shape in self._arguments.shapes:
            self._shape(shape, "External")
        for shape in self._arguments.in_image:
            self._shape(shape, "InImage")

    def _shape(self, shape: str, weights: str) -> None:
        arguments = self._arguments
        name = f"{shape}-{weights}" if arguments.gpus == 1 else f"{shape}-{arguments.gpus}gpus-{weights}"
        say(f"== {name}")
        found: dict[str, Any] = {"thaws": [], "dropped": []}
        self.results["runs"][name] = found
        store = self._work / f"store-{name}"
        model = measure.prepare(self._work, self._out, "small" if shape == "tiny" else shape)
        if shape == "tiny":
            make_tiny_model(model)
        shutil.rmtree(store, ignore_errors=True)
        store.mkdir(parents=True)
        options = self._options(weights)
        if arguments.cold and weights == "External":
            self._row(found, "plain", name, store, model, _disabled(options))
        self._row(found, "cold", name, store, model, options)
        if not found["cold"]:
            return
        found["cold"], found["artifact"] = found["cold"][0], artifact(store)
        self._keep()
        say(f"   artifact: {found['artifact']}")
        if arguments.look:
            say(f"   {zero_share(store)}")
        if weights == "InImage":
            self._row(found, "thaws", name, store, model, options)
            shutil.rmtree(store)
            return
        places = self._places(options)
        unverified = options | {"checkpoint": options["checkpoint"] | {"verify": "Sizes"}}
        with self._in_memory(store) as copy:
            for number in range(arguments.thaws):
                for place, elsewhere in places.items():
                    self._row(found, place or "thaws", name, store, model, elsewhere)
                if number < arguments.unverified:
                    self._row(found, "unverified", name, store, model, unverified)
                for place, elsewhere in places.items() if copy else ():
                    self._row(found, f"warm_{place}".rstrip("_"), name, copy or store, model, elsewhere)
        for _ in range(arguments.dropped):
            for place, elsewhere in places.items():
                if not self._late("the page cache dropped"):
                    ceilings.drop_caches()
                    self._row(found, f"dropped_{place}".rstrip("_"), name, store, model, elsewhere)
        if arguments.dropped and not self._late("what the disk gives"):
            self._ceilings(found, store)
        if arguments.serve and not self._late("throughput"):
            found["throughput"] = self._serve(name, store, model, options)
            self._keep()
        shutil.rmtree(store)

    def _ceilings(self, found: dict[str, Any], store: Path) -> None:
        big = max((p for p in store.rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)
        ceilings.drop_caches()
        found["disk_read"] = ceilings.disk_read(big)
        found["cache_read"] = ceilings.cache_read(big)
        found["disk_write"] = ceilings.disk_write(self._work / "ceiling")
        say("   " + ", ".join(f"{k} {found[k] / 1e9:.1f} GB/s" for k in ("disk_read", "cache_read", "disk_write")))
        self._keep()

    def _options(self, weights: str) -> dict[str, Any]:
        arguments = self._arguments
        options: dict[str, Any] = {"checkpoint": {"weights": weights, "restore_attempts": 99}}
        if arguments.device == "cpu":
            return options
        options |= measure.gpu_options(self._work)
        spread = {
            "tensorParallelSize": arguments.gpus // arguments.stages,
            "pipelineParallelSize": arguments.stages,
        }
        own = {"gpuMemoryUtilization": arguments.memory} | {name: n for name, n in spread.items() if n > 1}
        options["engine_args"] = options["engine_args"] | own
        if arguments.carrier:
            options["engine_env"] = options["engine_env"] | {CARRIER: arguments.carrier}
        return self._on(options, arguments.gpu)

    def _places(self, options: dict[str, Any]) -> dict[str, dict[str, Any]]:
        """Where a checkpoint is thawed, by the ends of the rows' names: `options` are those it was frozen with."""
        places = {"": options}
        if self._arguments.other is not None:
            places["other_gpu"] = self._on(options, self._arguments.other)
        elif self._arguments.gpus > 1 and not self._arguments.in_place:
            order = [*range(1, self._arguments.gpus), 0]
            places["other_gpu"] = options | {"environment": {"CUDA_VISIBLE_DEVICES": ",".join(map(str, order))}}
        return places

    def _on(self, options: dict[str, Any], gpu: int | None) -> dict[str, Any]:
        """With only this one of the GPUs, or with all."""
        setup = measure.gpu_options(self._work)["setup"]
        return options | {"setup": setup if gpu is None else f"{setup} && {only(gpu)}"}

    @contextlib.contextmanager
    def _in_memory(self, store: Path) -> Iterator[Path | None]:
        """A copy on the tmpfs of --warm."""
        if (memory := self._arguments.warm) is None or self._late("a copy in memory"):
            yield None
            return
        copy = memory / store.name
        files = [path.stat().st_size for path in store.rglob("*") if path.is_file() and not path.is_symlink()]
        needed, there = sum(-(-size // HUGE_PAGE) * HUGE_PAGE for size in files), shutil.disk_usage(memory)
        if needed > there.free:
            raise SystemExit(
                f"--warm {memory}: {there.free / 1e9:.1f} GB are free, {len(files)} files need {needed / 1e9:.1f}: "
                f"mount -o remount,size={-(-(needed + there.used) // (1 << 30))}g {memory}"
            )
        subprocess.run(["cp", "-a", "--attributes-only", store, copy], check=True)
        each = f"find . -type f -print0 | xargs -0 -P 8 -I{{}} cp -a {{}} {copy}/{{}}"
        subprocess.run(["bash", "-euo", "pipefail", "-c", each], cwd=store, check=True)
        try:
            yield copy
        finally:
            shutil.rmtree(copy)

    def _serve(self, name: str, store: Path, model: Path, options: dict[str, Any]) -> dict[str, Any]:
        """Of a thawed engine and of one that was never frozen, which has the other GPU, or its share of the same."""
        plain = _disabled(options)
        if self._arguments.other is not None:
            plain = self._on(plain, self._arguments.other)
        else:
            plain["engine_args"] = plain["engine_args"] | {"gpuMemoryUtilization": self._arguments.plain_memory}
        with contextlib.ExitStack() as running:
            pods, seconds = dict[str, Pod](), dict[str, float]()
            for kind, own in {"thawed": options, "plain": plain}.items():
                pods[kind], result = self._start(f"{name}-serving-{kind}", store, model, own)
                running.callback(measure.stop, pods[kind])
                seconds[kind] = result.first_token
            rates = load.compare(pods)
        ratio = load.ratio(rates["thawed"], rates["plain"])
        say(f"   tokens a second {rates}: ratio {ratio:.3f} (median of {load.TURNS})")
        return rates | {"ratio": ratio, "first_token": seconds}

    def _row(
        self, found: dict[str, Any], key: str, name: str, store: Path, model: Path, options: dict[str, Any]
    ) -> None:
        """One more start among those of this kind, if there is time for more."""
        rows = found.setdefault(key, [])
        if self._late(f"{key} {len(rows)} of {name}"):
            return
        pod, result = self._start(f"{name}-{key.replace('_', '-')}-{len(rows)}", store, model, options)
        if self._arguments.look:
            look(pod)
        measure.stop(pod)
        rows.append(asdict(result))
        del rows[-1]["log"]
        self._keep()

    def _late(self, what: str) -> bool:
        if late := time.monotonic() > self._ends:
            say(f"   no time left for {what} (--limit)")
        return late

    def _start(self, name: str, store: Path, model: Path, options: dict[str, Any]) -> tuple[Pod, measure.Start]:
        began = time.monotonic()
        pod, result = measure.start(name, self._work / "logs", store, model, self._criu, **options)
        say(f"   {name}: {line(result)} ({time.monotonic() - began:.0f} s)")
        return pod, result

    def _keep(self) -> None:
        (self._out / "results.json").write_text(json.dumps(self.results, indent=1) + "\n")


def _disabled(options: dict[str, Any]) -> dict[str, Any]:
    """For an engine that is neither frozen nor thawed, and has nothing of ours between its ranks."""
    plain = options | {"checkpoint": options["checkpoint"] | {"policy": "Disabled"}}
    if "engine_env" in plain:
        plain["engine_env"] = {name: value for name, value in plain["engine_env"].items() if name != CARRIER}
    return plain


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", choices=["gpu", "cpu"], required=True)
    parser.add_argument("--gpus", type=int, default=1, help="of one engine: tensor parallel")
    parser.add_argument("--stages", type=int, default=1, help="of a pipeline, each on its part of --gpus")
    parser.add_argument("--carrier", choices=["nvlink", "host"], help="of what ranks send each other (default: nvlink)")
    parser.add_argument("--gpu", type=int, help="use only this one of several GPUs; default: all that are there")
    parser.add_argument("--other", type=int, help="with --gpu: thaw on this one too, which the frozen engine never saw")
    parser.add_argument("--in-place", action="store_true", help="with --gpus: in no other order than it was frozen in")
    parser.add_argument("--memory", type=float, default=0.85, help="share of a GPU for an engine (default: 0.85)")
    parser.add_argument("--shapes", nargs="*", default=None, help="default: 0.6b 8b 14b on a GPU, tiny on a CPU")
    parser.add_argument("--in-image", nargs="*", default=[], help="shapes to measure with the weights in the image too")
    parser.add_argument("--thaws", type=int, default=5, help="with a warm page cache, each shape in each place")
    parser.add_argument("--warm", type=Path, help="a tmpfs, with huge=always say: thaw from a copy there, too")
    parser.add_argument("--unverified", type=int, default=2, help="so many of --thaws with digests not checked, too")
    parser.add_argument(
        "--dropped", type=int, help="with a dropped page cache, each shape in each place (default: 2 on a GPU, or none)"
    )
    parser.add_argument("--serve", action="store_true", help="throughput of a thawed engine and of a plain one")
    parser.add_argument(
        "--plain-memory", type=float, default=0.12, help="with --serve on the same GPUs: the plain engine's share"
    )
    parser.add_argument("--cold", action="store_true", help="a cold start without a freeze, too, before the other")
    parser.add_argument("--look", action="store_true", help="say where the memory is")
    parser.add_argument("--limit", type=float, help="seconds after which nothing more is begun")
    parser.add_argument(
        "--work", type=Path, required=True, help="directory on the disk to be measured; its contents are replaced"
    )
    parser.add_argument("--out", type=Path, required=True, help="for results.json and logs")
    arguments = parser.parse_args()
    if arguments.other is not None and arguments.gpu is None:
        parser.error("--other needs --gpu: an engine that saw all GPUs has no other one")
    if arguments.gpus > 1 and arguments.gpu is not None:
        parser.error("--gpus and --gpu: an engine has either one GPU or several")
    if arguments.gpus % arguments.stages:
        parser.error("--gpus must be a multiple of --stages")
    gpu = arguments.device == "gpu"
    if not gpu and (arguments.gpus > 1 or arguments.gpu is not None or arguments.serve or arguments.carrier):
        parser.error("--gpus, --gpu, --serve and --carrier are for --device gpu")
    if arguments.warm is not None:
        arguments.warm = arguments.warm.resolve()
    arguments.shapes = (["0.6b", "8b", "14b"] if gpu else ["tiny"]) if arguments.shapes is None else arguments.shapes
    arguments.dropped = (2 if gpu else 0) if arguments.dropped is None else arguments.dropped
    Bench(arguments).run()


if __name__ == "__main__":
    main()
