#!/usr/bin/env python3
"""One checkpoint thawed from where workers may have it: a claim, S3 on loopback, S3 by way of the node's cache, and
that cache on a disk and in memory. They take turns, so that what else the machine does meets all of them: `make
bench-store`.

The page cache is warm for the claim and for the cache on a disk; from S3 everything is fetched each time. With `--cold`
turns follow in which the machine's page cache, that of the S3 server included, is dropped before each thaw. Seconds are
those from the supervisor's exec to the first token. Needs root: it mounts a file system of its own, and a tmpfs. On a
GPU: `--device gpu --shape 8b --cache-gib 26 --cold`; VERNAL_CRIU and VERNAL_VERSITYGW name the programs where none can
be built.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import ceilings
import measure
from common.progress import say
from images.criu import criu_path
from models.shapes import make_shape
from models.tiny import make_tiny_model
from object_store.server import S3Server
from patience import until
from relay import Relay
from vernal_contract.config import ObjectStoreConfig
from vernal_contract.names import ENV_OBJECT_STORE
from vernal_contract.state import CacheFill, CacheLookup, NodeCacheReport
from vernal_worker.bucket.objects import Objects
from vernal_worker.bucket.push import push
from vernal_worker.store.artifact import load
from vernal_worker.store.node_cache import FORMAT
from worker_pod import Pod

PORT = 9000
"""Of the S3 server, as pods see it."""

CLAIM, S3, DISK, MEMORY, BEFORE_S3 = "claim", "S3", "node cache, disk", "node cache, memory", "node cache before S3"
INTO = "S3, into the node cache"
PLACES = (CLAIM, S3, INTO, DISK, MEMORY, BEFORE_S3)
COLD = (S3, INTO, DISK)
"""What is measured with the page cache dropped, too."""


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
    """An ext4 in a file: what of the machine's disk others use says nothing here. A directory where no loop device can
    be mounted, as in most containers."""
    image = work / "disk.img"
    with ExitStack() as stack:
        try:
            with image.open("wb") as file:
                file.truncate(size)
            subprocess.run(["mkfs.ext4", "-q", image], check=True)
            disk = stack.enter_context(mounted(work / "disk", "-o", "loop", str(image)))
        except (FileNotFoundError, subprocess.CalledProcessError) as error:
            image.unlink()
            disk = work / "directory"
            disk.mkdir()
            say(f"no ext4 can be mounted here ({error}): the cache is a directory of the disk with --work")
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
        (work / "compile-cache").mkdir(exist_ok=True)
        self._engine = measure.gpu_options(work) if shape else {}
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
        cache = {DISK: self._disk, MEMORY: self._memory, BEFORE_S3: self._disk, INTO: self._disk}.get(place)
        more: dict[str, Any] = self._of_bucket() if place in (S3, INTO, BEFORE_S3) else {}
        if place == INTO:
            shutil.rmtree(self._disk / FORMAT)
        with tempfile.TemporaryDirectory(dir=self._copies) as empty:
            with self._worker(place, Path(empty) if more else self._claim, cache=cache, **more) as (pod, result):
                assert result.mode == "Restored", result.log
                if place == INTO:
                    assert until("a fill", partial(filled, pod), more=pod.log) is CacheFill.FILLED, pod.log()
                elif cache is not None:
                    assert report(pod).lookup is CacheLookup.HIT, result.log
                    self.lookups.append(report(pod).lookup_seconds)
                came = [what for what in ("fetch", "pull") if f"event={what}_began" in result.log]
                assert bool(came) == (place in (S3, INTO)), result.log
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


def report(pod: Pod) -> NodeCacheReport:
    found = pod.state().node_cache
    assert found is not None, pod.log()
    return found


def filled(pod: Pod) -> CacheFill | None:
    return report(pod).fill


def turns(bench: Bench, places: Sequence[str], count: int, *, cold: bool = False) -> dict[str, list[measure.Start]]:
    """Thaws of each place, after one turn that warms up. `cold`: the page cache is dropped before each of them, and so
    there is nothing to warm up."""
    found: dict[str, list[measure.Start]] = {place: [] for place in places}
    for turn in range(count if cold else count + 1):
        first = turn % len(places)  # what gets slower all the time does so for none more than for the others
        for place in places[first:] + places[:first]:
            if cold:
                ceilings.drop_caches()
            result = bench.thaw(place)
            print(f"turn {turn}: {place}{', cold' * cold}: {result.first_token:.2f} s", flush=True)
            if turn or cold:
                found[place].append(result)
    return found


def seconds(found: dict[str, list[measure.Start]]) -> dict[str, list[float]]:
    return {place: [round(one.first_token, 3) for one in starts] for place, starts in found.items()}


def timings(found: dict[str, list[measure.Start]]) -> dict[str, list[dict[str, float]]]:
    return {place: [one.timings for one in starts] for place, starts in found.items()}


def cold_table(found: dict[str, list[float]]) -> str:
    lines = ["| thawed from, page cache dropped | median | lowest to highest |", "|---|---|---|"]
    for place, took in found.items():
        lines.append(f"| {place} | {statistics.median(took):.2f} | {min(took):.2f} to {max(took):.2f} |")
    return "\n".join(lines)


def table(found: dict[str, list[float]], size: int) -> str:
    """Medians, and how far from each other; beside the claim in the same turn."""
    lines = [f"{size / 1e6:.0f} MB, {len(found[CLAIM])} turns; seconds to the first token"]
    lines.append("| thawed from | median | lowest to highest | of the claim's, median of the turns |")
    lines.append("|---|---|---|---|")
    for place, took in found.items():
        ratio = statistics.median(a / b for a, b in zip(took, found[CLAIM], strict=True))
        spread = f"{min(took):.2f} to {max(took):.2f}"
        lines.append(f"| {place} | {statistics.median(took):.2f} | {spread} | {ratio:.2f} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--work", type=Path, required=True, help="directory on the disk to be measured, which is made")
    parser.add_argument("--device", choices=["cpu", "gpu"], default="cpu")
    parser.add_argument("--shape", default="8b", help="of the model on a GPU (default 8b)")
    parser.add_argument("--cache-gib", type=int, default=6, help="of each cache, which leaves a part of it free")
    parser.add_argument("--copies", type=Path, help="for buckets and what pods fetch (default: in --work)")
    parser.add_argument("--cold", action="store_true", help="turns with the page cache dropped, too: S3, cache on disk")
    parser.add_argument("--out", type=Path, help="for stores.json")
    arguments = parser.parse_args()
    if arguments.cold:
        ceilings.drop_caches()  # a machine that does not let us says so now
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
            warm = turns(bench, PLACES, arguments.turns)
            lookups = list(bench.lookups)
            cold = turns(bench, COLD, arguments.turns, cold=True) if arguments.cold else {}
            every = [start for starts in (*warm.values(), *cold.values()) for start in starts]
            assert len({tuple(start.tokens) for start in every}) == 1, "all of them answer the same"
            print(table(seconds(warm), bytes_))
            print(f"to find it in a cache: {statistics.median(lookups):.3f} s, {max(lookups):.3f} at most")
            if cold:
                print(cold_table(seconds(cold)))
            if arguments.out is not None:
                arguments.out.mkdir(parents=True, exist_ok=True)
                kept = {"bytes": bytes_, "seconds": seconds(warm), "timings": timings(warm), "lookups": lookups}
                if cold:
                    kept["cold"] = {"seconds": seconds(cold), "timings": timings(cold)}
                (arguments.out / "stores.json").write_text(json.dumps(kept, indent=1) + "\n")
    finally:
        shutil.rmtree(arguments.work, ignore_errors=True)


if __name__ == "__main__":
    main()
