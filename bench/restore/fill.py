#!/usr/bin/env python3
"""How fast weights come from files into GPU memory and are verified there, without CRIU or an engine.

By the code of a thaw (`checkpoint/cuda/memory.Broker`), from a directory whose files are in the page cache and from a
tmpfs with huge pages. The last row is what the bus gives: copies of memory that was page-locked before. Each turn is a
process of its own, as a helper is; with `--apart` there are rows with one for each GPU, which share no interpreter, and
with `--tune` rows for other sizes and numbers."""

from __future__ import annotations

import argparse
import ctypes
import json
import mmap
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path

from blake3 import blake3
from vernal_worker.checkpoint.cuda import bus as buses
from vernal_worker.checkpoint.cuda import memory, slots, transfer
from vernal_worker.checkpoint.cuda.driver import bindings, call
from vernal_worker.checkpoint.cuda.layout import FILE_BYTES, STORED, Memory, Rank, Segment, ranges
from vernal_worker.store.pieces import PIECE

GIB = 1 << 30
ROWS = {
    "cache": "page cache",
    "huge": "huge pages",
    "bus": "huge pages, page-locked before",
}


def layout(gib: int, ranks: Iterable[int]) -> Memory:
    """So much for the GPU of each rank, in allocations of 512 MiB."""
    segments = tuple(Segment(STORED, GIB // 2) for _ in range(2 * gib))
    return Memory(piece=PIECE, ranks=tuple(Rank(file=f"rank{number}", segments=segments) for number in ranks))


def write(directory: Path, made: Memory) -> list[list[str]]:
    """The files of all ranks, and the digests of their pieces: the same GiB again and again."""
    text = os.urandom(GIB)
    digests = [blake3(text[at : at + size]).hexdigest() for at, size in ranges(GIB, PIECE)]
    for rank in made.ranks:
        left = rank.bytes
        for name in rank.files:
            with (directory / name).open("wb") as file:
                for _ in range(min(left, FILE_BYTES) // GIB):
                    file.write(text)
            left -= FILE_BYTES
    return [digests * (rank.bytes // GIB) for rank in made.ranks]


def tune(setting: str) -> None:
    """Bytes of a slot in KiB, threads for each GPU at most, and copies that a GPU gets at once: "4096:10:4"."""
    kib, threads, copies = map(int, setting.split(":"))
    slots.SIZE = transfer.SIZE = kib << 10
    slots._MOST_THREADS = threads
    buses._AT_ONCE = copies


def one(mode: str, directory: Path, gib: int, gpus: int, apart: str, digests: list[list[str]]) -> dict[str, float]:
    """Seconds, in this process. `apart`: of the ranks only this one, with as many threads as if it were with others."""
    call("cuInit", 0)
    slots._MOST_THREADS = slots.default_threads(gpus)
    made = layout(gib, [int(apart)] if apart else range(gpus))
    if mode == "bus":
        return {"total": bus(directory, made)}
    with tempfile.TemporaryDirectory() as place:
        broker = memory.Broker(made.ranks, directory, PIECE, digests)
        broker.slots = slots.Slots(broker.wanted_slots)  # a helper has them before
        broker.start(Path(place) / "socket")
        broker.wait()
    return broker.seconds


def bus(directory: Path, made: Memory) -> float:
    """All ranks at once, memory page-locked and GPUs' memory made before."""
    jobs, files = [], []
    for device, rank in enumerate(made.ranks):
        call("cuCtxSetCurrent", call("cuDevicePrimaryCtxRetain", call("cuDeviceGet", device)))
        stream = call("cuStreamCreate", bindings().CUstream_flags.CU_STREAM_NON_BLOCKING)
        target = int(call("cuMemAlloc", FILE_BYTES))
        for name in rank.files:
            with (directory / name).open("r+b") as file:
                files.append(mmap.mmap(file.fileno(), 0))
            address, size = ctypes.addressof(ctypes.c_char.from_buffer(files[-1])), len(files[-1])
            call("cuMemHostRegister", address, size, 0)
            jobs.append((stream, target, address, size))
    began = time.monotonic()
    for stream, target, address, size in jobs:
        call("cuMemcpyHtoDAsync", target, address, size, stream)
    for stream in {id(job[0]): job[0] for job in jobs}.values():
        call("cuStreamSynchronize", stream)
    return time.monotonic() - began


def children(mode: str, own: Path, digests: Path, setting: str, gib: int, gpus: int, apart: bool) -> dict[str, float]:
    """Seconds of a process that fills all GPUs, or of the last of those that fill one each."""
    sizes = ["--gib", str(gib), "--gpus", str(gpus), "--cache", str(own), "--huge", str(own)]
    command = [sys.executable, __file__, *sizes, "--one", mode, str(digests), setting]
    began = time.monotonic()
    running = []
    for rank in map(str, range(gpus)) if apart else [""]:
        only = {"CUDA_VISIBLE_DEVICES": rank} if apart else {}
        running.append(subprocess.Popen([*command, rank], stdout=subprocess.PIPE, text=True, env=os.environ | only))
    texts = [process.communicate()[0] for process in running]
    assert not any(process.returncode for process in running), "one of them failed"
    found = [json.loads(text) for text in texts]
    return {name: max(each[name] for each in found) for name in found[0]} | {"process": time.monotonic() - began}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="Example, 1 min: `python3 bench/restore/fill.py --cache /var/tmp/fill --huge /mnt/huge --gib 16`,\n"
        "after `mount -t tmpfs -o huge=always,size=40g tmpfs /mnt/huge`.",
    )
    parser.add_argument("--cache", type=Path, help="directory on a disk, for the rows with the page cache")
    parser.add_argument("--huge", type=Path, help="directory in a tmpfs with huge pages, for the others")
    parser.add_argument("--gib", type=int, default=16, help="for each GPU (default: 16)")
    parser.add_argument("--gpus", type=int, default=1, help="filled at once (default: 1)")
    parser.add_argument("--apart", action="store_true", help="a process for each of --gpus, too")
    parser.add_argument(
        "--tune", nargs="*", default=[], metavar="KIB:THREADS:COPIES", help="rows with other slots, too: 2048:10:8"
    )
    parser.add_argument("--turns", type=int, default=4, help="of each row; the first is not counted (default: 4)")
    parser.add_argument("--out", type=Path, help="where to leave fill.json")
    parser.add_argument("--one", nargs=4, metavar=("MODE", "DIGESTS", "SETTING", "RANK"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        mode, digests, setting, apart = arguments.one
        if setting:
            tune(setting)
        directory = arguments.cache if mode == "cache" else arguments.huge
        found = one(mode, directory, arguments.gib, arguments.gpus, apart, json.loads(Path(digests).read_text()))
        print(json.dumps(found), flush=True)
        os._exit(0)  # as a helper ends: nothing is taken back piece by piece
    results: dict[str, list[dict[str, float]]] = {}
    for directory, modes in ((arguments.cache, ["cache"]), (arguments.huge, ["huge", "bus"])):
        if directory is None:
            continue
        shutil.rmtree(directory / "fill", ignore_errors=True)
        own = directory / "fill"
        own.mkdir(parents=True)
        digests = own / "digests.json"
        digests.write_text(json.dumps(write(own, layout(arguments.gib, range(arguments.gpus)))))
        rows = [(mode, apart, "") for mode in modes for apart in (False, *[True] * arguments.apart)]
        rows += [
            (modes[0], apart, setting) for setting in arguments.tune for apart in (False, *[True] * arguments.apart)
        ]
        for turn in range(arguments.turns):
            for mode, apart, setting in rows:
                found = children(mode, own, digests, setting, arguments.gib, arguments.gpus, apart)
                if turn:
                    name = f"{ROWS[mode]}{', ' * bool(setting)}{setting}{', apart' * apart}"
                    results.setdefault(name, []).append(found)
        shutil.rmtree(own)
    gb = arguments.gib * arguments.gpus * GIB / 1e9
    print(f"{gb:.1f} GB, {arguments.gpus} GPUs, {os.cpu_count()} cores")
    for mode, turns in results.items():
        seconds = [turn["total"] for turn in turns]
        median = statistics.median(seconds)
        process = statistics.median(turn["process"] for turn in turns)
        rates = ", ".join(f"{value:.2f}" for value in seconds)
        print(f"{mode:42} {median:.2f} s ({rates}), {gb / median:.1f} GB/s; process {process:.2f} s", flush=True)
    if arguments.out:
        arguments.out.mkdir(parents=True, exist_ok=True)
        result = {"machine": os.uname().release, "gib": arguments.gib, "gpus": arguments.gpus, "turns": results}
        (arguments.out / "fill.json").write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
