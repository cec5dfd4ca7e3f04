#!/usr/bin/env python3
"""One checkpoint thawed from where workers may have it: a claim, S3 on loopback, and the node's cache on a disk and in
memory. They take turns, so that what else the machine does meets all of them: `make bench-store`.

The page cache is warm for the claim and for the cache on a disk; from S3 everything is fetched each time. Seconds are
those from the supervisor's exec to the first token. Needs root: it mounts a file system of its own, and a tmpfs. On a
GPU: `--device gpu --shape 8b --cache-gib 26`.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import measure
from gpu_pods import compile_cache
from gpu_pods import mounted as as_volume
from images.criu import criu_path
from models.shapes import make_shape
from models.tiny import make_tiny_model
from object_store.server import S3Server
from patience import until
from relay import Relay
from run import GPU_ENGINE
from vernal_contract.config import ObjectStoreConfig
from vernal_contract.names import ENV_OBJECT_STORE
from vernal_contract.state import CacheFill, CacheLookup, NodeCacheReport
from vernal_worker.bucket.objects import Objects
from vernal_worker.bucket.push import push
from vernal_worker.store.artifact import load
from worker_pod import Pod

PORT = 9000
"""Of the S3 server, as pods see it."""

CLAIM, S3, DISK, MEMORY, BEFORE_S3 = "claim", "S3", "node cache, disk", "node cache, memory", "node cache before S3"
PLACES = (CLAIM, S3, DISK, MEMORY, BEFORE_S3)


@contextmanager
def mounted(place: Path, *options: str) -> Iterator[Path]:
    place.mkdir()
    subprocess.run(["mount", *options, place], check=True)
    try:
        yield place
    finally:
        subprocess.run(["umount", place], check=True)


@contextmanager
def own_disk(work: Path, size: int) -> Iterator[Path]:
    """An ext4 in a file: what of the machine's disk others use says nothing here."""
    image = work / "disk.img"
    with image.open("wb") as file:
        file.truncate(size)
    subprocess.run(["mkfs.ext4", "-q", image], check=True)
    with mounted(work / "disk", "-o", "loop", str(image)) as disk:
        yield disk


class Bench:
    def __init__(self, work: Path, disk: Path, memory: Path, server: S3Server, copies: Path, shape: str | None) -> None:
        """`copies`: where pods put what they fetch; `shape`: of a model on a GPU, None for the tiny one on a CPU."""
        self._work, self._server, self._criu = work, server, criu_path()
        self._disk, self._memory, self._copies = disk, memory, copies
        self._logs, self._model, self._claim = work / "logs", work / "model", work / "claim"
        for place in (self._logs, self._claim):
            place.mkdir()
        make_shape(shape, self._model) if shape else make_tiny_model(self._model)
        self._engine = on_gpu(work / "compile-cache") if shape else {}
        self._bucket = server.make_bucket()
        self._count = 0
        self.lookups: list[float] = []
        """Seconds that it took to find a checkpoint in a cache."""

    def prepare(self) -> int:
        """A checkpoint, in all of the places; its bytes."""
        for name, cache in (("cold", self._memory), ("fill", self._disk)):  # what it froze, and what it thawed
            with self._worker(name, self._claim, cache=cache) as (pod, _):
                assert until("a fill", partial(filled, pod), more=pod.log) is CacheFill.FILLED, pod.log()
        (current,) = self._claim.glob("artifacts/*/*/current")
        artifact = load(current.resolve())
        os.environ.update(self._server.environment)
        push(Objects(f"s3://{self._bucket}/models", endpoint=self._server.url), artifact)
        return artifact.bytes

    def thaw(self, place: str) -> measure.Start:
        cache = {DISK: self._disk, MEMORY: self._memory, BEFORE_S3: self._disk}.get(place)
        more: dict[str, Any] = self._of_bucket() if place in (S3, BEFORE_S3) else {}
        with tempfile.TemporaryDirectory(dir=self._copies) as empty:
            with self._worker(place, Path(empty) if more else self._claim, cache=cache, **more) as (pod, result):
                assert result.mode == "Restored", result.log
                if cache is not None:
                    assert report(pod).lookup is CacheLookup.HIT, result.log
                    self.lookups.append(report(pod).lookup_seconds)
                assert ("event=pull_began" in result.log) == (place == S3), result.log
            return result

    def _of_bucket(self) -> dict[str, Any]:
        credentials = {name: value for name, value in self._server.environment.items() if name != "AWS_REGION"}
        where = ObjectStoreConfig(
            url=f"s3://{self._bucket}/models",
            endpoint=f"http://127.0.0.1:{PORT}",
            region=self._server.environment["AWS_REGION"],
        )
        return {
            "checkpoint": {"object_store": where},
            "environment": {ENV_OBJECT_STORE + name: value for name, value in credentials.items()},
            "beside": partial(Relay, port=PORT, target=self._server.port),
        }

    @contextmanager
    def _worker(self, name: str, store: Path, **options: Any) -> Iterator[tuple[Pod, measure.Start]]:
        self._count += 1
        name = f"{name.replace(',', '').replace(' ', '-')}-{self._count}"
        pod, result = measure.start(name, self._logs, store, self._model, self._criu, **self._engine, **options)
        try:
            yield pod, result
        finally:
            measure.stop(pod)


def on_gpu(cache: Path) -> dict[str, Any]:
    """Options of a pod with an engine on a GPU, whose compile cache is a volume."""
    cache.mkdir(exist_ok=True)
    environment = compile_cache(cache) | {"VLLM_USE_FLASHINFER_SAMPLER": "0"}
    return {"engine_args": GPU_ENGINE, "engine_env": environment, "setup": as_volume(cache)}


def report(pod: Pod) -> NodeCacheReport:
    found = pod.state().node_cache
    assert found is not None, pod.log()
    return found


def filled(pod: Pod) -> CacheFill | None:
    return report(pod).fill


def table(found: dict[str, list[float]], size: int) -> str:
    """Medians, and how far from each other; beside the claim in the same turn."""
    lines = [f"{size / 1e6:.0f} MB, {len(found[CLAIM])} turns; seconds to the first token"]
    lines.append("| thawed from | median | lowest to highest | of the claim's, median of the turns |")
    lines.append("|---|---|---|---|")
    for place, seconds in found.items():
        ratio = statistics.median(a / b for a, b in zip(seconds, found[CLAIM], strict=True))
        spread = f"{min(seconds):.2f} to {max(seconds):.2f}"
        lines.append(f"| {place} | {statistics.median(seconds):.2f} | {spread} | {ratio:.2f} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--work", type=Path, required=True, help="directory on the disk to be measured, which is made")
    parser.add_argument("--device", choices=["cpu", "gpu"], default="cpu")
    parser.add_argument("--shape", default="8b", help="of the model on a GPU (default 8b)")
    parser.add_argument("--cache-gib", type=int, default=6, help="of each cache, which leaves a part of it free")
    parser.add_argument("--copies", type=Path, help="for buckets and what pods fetch (default: in --work)")
    parser.add_argument("--out", type=Path, help="for stores.json")
    arguments = parser.parse_args()
    arguments.work.mkdir(parents=True)
    size = arguments.cache_gib << 30
    try:
        with ExitStack() as stack:
            copies = arguments.copies or arguments.work
            disk = stack.enter_context(own_disk(arguments.work, size))
            options = f"size={size},huge=always"
            memory = stack.enter_context(mounted(arguments.work / "memory", "-t", "tmpfs", "-o", options, "tmpfs"))
            server = stack.enter_context(S3Server(copies))
            shape = arguments.shape if arguments.device == "gpu" else None
            bench = Bench(arguments.work, disk, memory, server, copies, shape)
            bytes_ = bench.prepare()
            found: dict[str, list[float]] = {place: [] for place in PLACES}
            timings: dict[str, list[dict[str, float]]] = {place: [] for place in PLACES}
            tokens = set[tuple[int, ...]]()
            for turn in range(arguments.turns + 1):
                first = turn % len(PLACES)  # what gets slower all the time does so for none more than for the others
                for place in PLACES[first:] + PLACES[:first]:
                    result = bench.thaw(place)
                    tokens.add(tuple(result.tokens))
                    print(f"turn {turn}: {place}: {result.first_token:.2f} s", flush=True)
                    if turn:  # the first one warms up
                        found[place].append(round(result.first_token, 3))
                        timings[place].append(result.timings)
            assert len(tokens) == 1, "all of them answer the same"
            print(table(found, bytes_))
            print(f"to find it in a cache: {statistics.median(bench.lookups):.3f} s, {max(bench.lookups):.3f} at most")
            if arguments.out is not None:
                arguments.out.mkdir(parents=True, exist_ok=True)
                kept = {"bytes": bytes_, "seconds": found, "timings": timings, "lookups": bench.lookups}
                (arguments.out / "stores.json").write_text(json.dumps(kept, indent=1) + "\n")
    finally:
        shutil.rmtree(arguments.work, ignore_errors=True)


if __name__ == "__main__":
    main()
