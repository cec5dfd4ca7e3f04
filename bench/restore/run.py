#!/usr/bin/env python3
"""Cold starts, freezes and thaws of one machine, measured: `python3 bench/restore/run.py --device gpu --out DIR`."""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import ceilings
import measure
from gpu_pods import mounted, only
from measure import Start
from models.shapes import make_shape
from models.tiny import make_tiny_model

GPU_ENGINE = {
    "dtype": "bfloat16",
    "loadFormat": "dummy",
    "maxModelLen": 4096,
    "maxNumSeqs": 64,
    "gpuMemoryUtilization": 0.85,
    "numGpuBlocksOverride": None,
    "enforceEager": False,
    "seed": 0,
}


class Bench:
    """Runs on one machine, and keeps what it finds in `results.json`."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        self._arguments = arguments
        self._work: Path = arguments.work
        self._out: Path = arguments.out
        self._out.mkdir(parents=True, exist_ok=True)
        (self._work / "logs").mkdir(parents=True, exist_ok=True)
        self._criu = Path(os.environ["VERNAL_CRIU"])
        self.results: dict[str, Any] = {"machine": machine(), "runs": {}}

    def run(self) -> None:
        for shape in self._arguments.shapes:
            self._shape(shape, "External")
        for shape in self._arguments.in_image:
            self._shape(shape, "InImage")
        self._keep()

    def _shape(self, shape: str, weights: str) -> None:
        name = f"{shape}-{weights}"
        say(f"== {name}")
        found = self.results["runs"][name] = {"thaws": [], "dropped": []}
        model, store = self._work / f"model-{shape}", self._work / f"store-{name}"
        shutil.rmtree(store, ignore_errors=True)
        store.mkdir(parents=True)
        make_tiny_model(model) if shape == "tiny" else make_shape(shape, model)
        options = self._options(shape, weights)
        if self._arguments.cold and weights == "External":
            found["plain"] = self._one(name, "plain", store, model, options, policy="Disabled")
        found["cold"] = self._one(name, "cold", store, model, options)
        found["artifact"] = artifact(store)
        say(f"   artifact: {found['artifact']}")
        if self._arguments.look:
            say(f"   {zero_share(store)}")
        inside = weights == "InImage"
        for number in range(1 if inside else self._arguments.thaws):
            found["thaws"].append(self._one(name, f"thaw-{number}", store, model, options))
        if inside:
            shutil.rmtree(store)
            self._keep()
            return
        other = self._arguments.other
        places = [("", options)]
        if other is not None:
            places.append(("_other_gpu", options | {"setup": self._on(other)}))
            found["other_gpu"] = [
                self._one(name, f"other-{number}", store, model, places[1][1])
                for number in range(self._arguments.thaws)
            ]
        for place, elsewhere in places:
            found[f"warm{place}"] = self._warm(f"{name}{place.replace('_', '-')}", store, model, elsewhere)
        unverified = options | {"checkpoint": options["checkpoint"] | {"verify": "Sizes"}}
        found["unverified"] = [
            self._one(name, f"unverified-{number}", store, model, unverified)
            for number in range(self._arguments.unverified)
        ]
        if self._arguments.device == "gpu" or self._arguments.drop:
            big = max((p for p in store.rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)
            for number in range(self._arguments.dropped):
                for place, elsewhere in places:
                    ceilings.drop_caches()
                    what = f"dropped{place.replace('_', '-')}-{number}"
                    found.setdefault(f"dropped{place}", []).append(self._one(name, what, store, model, elsewhere))
            ceilings.drop_caches()
            found["disk_read"] = ceilings.disk_read(big)
            found["cache_read"] = ceilings.cache_read(big)
            found["disk_write"] = ceilings.disk_write(self._work / "ceiling")
            say("   " + ", ".join(f"{k} {found[k] / 1e9:.1f} GB/s" for k in ("disk_read", "cache_read", "disk_write")))
        shutil.rmtree(store)
        self._keep()

    def _warm(self, name: str, store: Path, model: Path, options: dict[str, Any]) -> list[dict[str, Any]]:
        """Thaws from a copy in memory."""
        if (memory := self._arguments.warm) is None:
            return []
        copy = memory / store.name
        subprocess.run(["cp", "-a", str(store), str(copy)], check=True)
        try:
            return [self._one(name, f"warm-{n}", copy, model, options) for n in range(self._arguments.thaws)]
        finally:
            shutil.rmtree(copy)

    def _options(self, shape: str, weights: str) -> dict[str, Any]:
        options: dict[str, Any] = {"checkpoint": {"weights": weights, "restore_attempts": 99}}
        if self._arguments.device == "gpu":
            (self._work / "compile-cache").mkdir(exist_ok=True)
            options |= measure.gpu_options(self._work)
            options |= {"engine_args": GPU_ENGINE, "setup": self._on(self._arguments.gpu)}
        return options

    def _on(self, gpu: int | None) -> str:
        """Shell: the compile cache is a volume, and there is only this one of the GPUs, or all."""
        cache = mounted(self._work / "compile-cache")
        return cache if gpu is None else f"{cache} && {only(gpu)}"

    def _one(
        self, name: str, what: str, store: Path, model: Path, options: dict[str, Any], policy: str = ""
    ) -> dict[str, Any]:
        checkpoint = options["checkpoint"] | ({"policy": policy} if policy else {})
        began = time.monotonic()
        pod, result = measure.start(
            f"{name}-{what}", self._work / "logs", store, model, self._criu, **{**options, "checkpoint": checkpoint}
        )
        if self._arguments.look:
            look(pod)
        measure.stop(pod)
        say(f"   {what}: {line(result)} ({time.monotonic() - began:.0f} s)")
        entry = asdict(result)
        del entry["log"]
        return entry

    def _keep(self) -> None:
        (self._out / "results.json").write_text(json.dumps(self.results, indent=1) + "\n")


def line(result: Start) -> str:
    timings = " ".join(f"{name}={seconds:.2f}" for name, seconds in result.timings.items())
    seconds = f"first token {result.first_token:.2f} s, answer {result.answer:.2f} s"
    return f"{result.mode}, {seconds} {result.tokens[:4]} [{timings}]"


def artifact(store: Path) -> dict[str, int]:
    """Bytes of the parts."""
    (current,) = store.glob("artifacts/*/*/current")
    sizes = {
        p.relative_to(current.resolve()).as_posix(): p.stat().st_size
        for p in current.resolve().rglob("*")
        if p.is_file()
    }
    result = {"weights": 0, "images": 0, "other": 0}
    for name, size in sizes.items():
        part = "weights" if name.startswith("weights/") else "images" if "/criu/" in name else "other"
        result[part] += size
    return result


def zero_share(store: Path) -> str:
    """How many of the images' pages hold nothing but zeros."""
    import numpy as np

    parts = []
    for path in sorted(store.glob("artifacts/*/*/current/process/criu/pages-*.img")):
        pages = np.memmap(path, np.uint64).reshape(-1, 512)
        zeros = sum(int((~pages[i : i + 65536].any(axis=1)).sum()) for i in range(0, len(pages), 65536))
        parts.append(f"{path.name} {len(pages) >> 8} MiB, {zeros >> 8} MiB zeros")
    return "; ".join(parts)


def machine() -> dict[str, str]:
    found = {"kernel": os.uname().release, "cores": str(os.cpu_count()), "python": sys.version.split()[0]}
    query = ["nvidia-smi", "--query-gpu=name,driver_version,memory.total", "--format=csv,noheader"]
    try:
        found["gpus"] = subprocess.check_output(query, text=True).strip()
    except OSError:
        found["gpus"] = "none"
    for place in sys.path:
        for path in Path(place or ".").glob("*.dist-info") if Path(place or ".").is_dir() else ():
            if match := re.fullmatch(r"(vllm|torch)-([^-]+)\.dist-info", path.name):
                found.setdefault(match[1], match[2])
    found["criu"] = subprocess.check_output([os.environ["VERNAL_CRIU"], "--version"], text=True).split()[1]
    return found


def look(pod: Any) -> None:
    """Where the memory of each process is, for tuning."""
    for pid, command in pod.processes().items():
        try:
            text = Path(f"/proc/{pid}/smaps").read_text()
        except OSError:
            continue
        kinds: dict[str, int] = {}
        kind, area, areas = "", "", list[tuple[int, str]]()
        for row in text.splitlines():
            if re.match(r"[0-9a-f]+-[0-9a-f]+ ", row):
                parts, area = row.split(maxsplit=5), row
                kind = parts[5] if len(parts) > 5 else "anon"
                kind = kind if kind.startswith(("/dev", "[", "anon", "/memfd")) else "file"
            elif row.startswith("Private_Dirty:"):
                kinds[kind] = kinds.get(kind, 0) + int(row.split()[1])
                areas.append((int(row.split()[1]), area))
        for kib, area in sorted(areas, reverse=True)[:12]:
            if kib > 20_000:
                say(f"       {kib // 1024} MiB {area}")
        top = {k: v // 1024 for k, v in sorted(kinds.items(), key=lambda kv: -kv[1])[:6] if v > 1024}
        say(f"     {pid} {command[:60]!r} private dirty MiB: {top}")


def say(text: str) -> None:
    print(text, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", choices=["gpu", "cpu"], required=True)
    parser.add_argument("--gpu", type=int, help="use only this one of several GPUs; default: all that are there")
    parser.add_argument("--other", type=int, help="with --gpu: thaw on this one too, which the frozen engine never saw")
    parser.add_argument("--shapes", nargs="*", default=None, help="default: 0.6b 8b 14b on a GPU, tiny on a CPU")
    parser.add_argument(
        "--in-image", nargs="*", default=None, help="shapes to measure with the weights in the image too"
    )
    parser.add_argument("--thaws", type=int, default=5, help="with a warm page cache, each shape")
    parser.add_argument("--warm", type=Path, help="a tmpfs, with huge=always say: thaw from a copy there, too")
    parser.add_argument("--unverified", type=int, default=2, help="with digests not checked, each shape")
    parser.add_argument("--dropped", type=int, default=2, help="with a dropped page cache, each shape")
    parser.add_argument("--cold", action="store_true", help="a second cold start, without a freeze: compile cache warm")
    parser.add_argument("--drop", action="store_true", help="drop the page cache on a CPU machine too")
    parser.add_argument("--look", action="store_true", help="say where the memory is")
    parser.add_argument(
        "--work", type=Path, required=True, help="directory on the disk to be measured; its contents are replaced"
    )
    parser.add_argument("--out", type=Path, required=True, help="for results.json and logs")
    arguments = parser.parse_args()
    if arguments.other is not None and arguments.gpu is None:
        parser.error("--other needs --gpu: an engine that saw all GPUs has no other one")
    gpu = arguments.device == "gpu"
    arguments.shapes = (["0.6b", "8b", "14b"] if gpu else ["tiny"]) if arguments.shapes is None else arguments.shapes
    arguments.in_image = arguments.in_image or []
    Bench(arguments).run()


if __name__ == "__main__":
    main()
