"""How fast blocks come from files into the KV cache, step by step and without an engine: `python -m kv_recovery.speed`.

Blocks have the form of Qwen3-8B's: 36 layers, 2.36 MB for 16 tokens. Their files are written, and so in the page cache,
before anything is measured. The KV cache is on the GPU if there is one.

What a block costs beside its bytes is what as many blocks of 64 bytes a layer take: nearly all of that is work for
which a thread must have the interpreter, so that more threads do not help.
"""

import argparse
import math
import os
import statistics
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from patience import GUARD_SECONDS
from vernal_worker.kv.blockfile import HEADER_BYTES, Files
from vernal_worker.kv.blockstore import BlockStore, Layout
from vernal_worker.kv.counters import Counters
from vernal_worker.kv.loader import Loader
from vernal_worker.kv.loads import Block, Loaded, Move
from vernal_worker.kv.pages import Pages
from vernal_worker.kv.settings import Settings
from vernal_worker.kv.slots import Done, Fence
from vernal_worker.kv.workers import Workers

_LAYERS = 36
_SHAPE = (2, 16, 8, 128)  # of a layer's block, bfloat16
_TINY = (2, 16, 1, 1)
_DEFAULTS = Settings(shared_storage_path="/")


class Setting:
    """Block files in `directory`, and a KV cache with room for them."""

    def __init__(self, directory: Path, count: int, layers: int, slots: int, shape: tuple[int, ...] = _SHAPE) -> None:
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        caches = {
            str(layer): torch.zeros((count, *shape), dtype=torch.bfloat16, device=device) for layer in range(layers)
        }
        self.pages = Pages(caches, count)
        self.store = BlockStore(directory, Layout(os.urandom(32), shape[1], self.pages.block_bytes))
        self.blocks = [Block(os.urandom(32), number) for number in range(count)]
        self.slots = self.pages.host_slots(slots * self.pages.block_bytes)
        payload = memoryview(bytearray(os.urandom(self.pages.block_bytes)))
        for block in self.blocks:
            self.store.write(block.key, payload)

    def read(self, request: str, key: bytes, into: memoryview) -> None:
        Files().read(str(self.store.path(key)), bytearray(HEADER_BYTES), into)

    def verify(self, request: str, key: bytes, into: memoryview) -> None:
        self.store.read(key, into)

    def loader(self, workers: Workers, *, copies: bool) -> Loader:
        """As a worker has it; without `copies` what was read stays in its slots."""
        stream = self.pages.copy_stream(self.slots) if copies else NoCopies()
        return Loader(self.verify, self.slots, workers, Counters(), stream)

    def copy(self, moves: Sequence[Move]) -> Fence:
        return self.pages.load(self.slots, moves)


class NoCopies:
    """In place of a stream for copies."""

    def mark(self) -> None:
        return

    def begin(self) -> None:
        return

    def copy(self, moves: Sequence[Move]) -> Fence:
        return Done()

    def end(self) -> None:
        return


def in_turn(setting: Setting, threads: int, read: Callable[[str, bytes, memoryview], None]) -> float:
    """Seconds for `read` alone, by as many threads, each with a slot of its own and every so manieth block."""
    slots = [setting.slots.view(number) for number in range(threads)]

    def some(first: int) -> None:
        for block in setting.blocks[first::threads]:
            read("", block.key, slots[first])

    readers = [threading.Thread(target=some, args=(number,)) for number in range(threads)]
    start = time.monotonic()
    for reader in readers:
        reader.start()
    for reader in readers:
        reader.join()
    return time.monotonic() - start


def loaded(setting: Setting, workers: Workers, *, copies: bool = True) -> float:
    """Seconds for a load as a worker does it: this thread is the engine's, and the engine is idle."""
    loader = setting.loader(workers, copies=copies)
    start = time.monotonic()
    loader.start("request", setting.blocks, GUARD_SECONDS)
    ends: list[Loaded] = []
    while not ends:
        ends = loader.poll(setting.copy, 0.005)
    if setting.pages.page_locked:
        torch.cuda.synchronize()
    seconds = time.monotonic() - start
    if ends[0].failures:
        raise RuntimeError(f"blocks were not loaded: {ends[0].failures}")
    assert workers.drain(GUARD_SECONDS), "a thread may still have slots that it took for nothing"
    loader.poll(setting.copy)
    taken = setting.slots.take_some(setting.slots.count)
    assert len(taken) == setting.slots.count, "the next load begins like this one"
    setting.slots.give_back(taken)
    return seconds


def table(setting: Setting, tiny: Setting, threads: Sequence[int], repeats: int, say: Callable[[str], None]) -> None:
    """Prints GiB/s of each step, the median of `repeats`, for each number of threads."""
    count = len(setting.blocks)
    gib = count * setting.pages.block_bytes / 2**30
    say(
        f"{count} blocks, {gib:.2f} GiB, {setting.slots.count} slots, "
        f"KV cache on {torch.cuda.get_device_name() if setting.pages.page_locked else 'CPU'}, {os.cpu_count()} cores"
    )
    say("GiB/s       read   + digest   by the loader   + into the KV cache      ms    a block beside its bytes")
    for size in threads:
        workers = Workers("speed", size)
        kinds: list[Callable[[], float]] = [
            lambda size=size: in_turn(setting, size, setting.read),  # type: ignore[misc]
            lambda size=size: in_turn(setting, size, setting.verify),  # type: ignore[misc]
            lambda workers=workers: loaded(setting, workers, copies=False),  # type: ignore[misc]
            lambda workers=workers: loaded(setting, workers),  # type: ignore[misc]
        ]
        medians = [statistics.median(run() for _ in range(repeats)) for run in kinds]
        beside = statistics.median(loaded(tiny, workers) for _ in range(repeats)) / count * 1e6
        read, verified, by_loader, whole = (gib / seconds for seconds in medians)
        say(
            f"{size:3} threads {read:5.1f} {verified:10.1f} {by_loader:15.1f} {whole:21.1f} {medians[-1] * 1000:7.0f} "
            f"{beside:15.0f} µs"
        )
        workers.stop()


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m kv_recovery.speed",
        description=__doc__,
        epilog="Example, 40 s on a GPU machine: `PYTHONPATH=e2e:worker_image:contract python3 -m kv_recovery.speed`.",
    )
    parser.add_argument("--blocks", type=int, default=768, help="default: 768, of 12,288 tokens")
    parser.add_argument("--layers", type=int, default=_LAYERS, help="of 64 KiB each in a block (default: 36)")
    parser.add_argument(
        "--threads", type=int, nargs="+", default=[_DEFAULTS.threads, 4, 8, 16], help="a line of the table for each"
    )
    parser.add_argument("--buffer-mib", type=int, default=_DEFAULTS.load_buffer_mib, help="default: the connector's")
    parser.add_argument("--repeats", type=int, default=5, help="of which the median is shown (default: 5)")
    parser.add_argument("--directory", type=Path, help="where to put the files (default: the temporary directory)")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="vernal-kv-speed-", dir=arguments.directory) as directory:
        block = arguments.layers * 2 * math.prod(_SHAPE)
        slots = (arguments.buffer_mib << 20) // block
        setting = Setting(Path(directory), arguments.blocks, arguments.layers, slots)
        tiny = Setting(Path(directory), arguments.blocks, arguments.layers, slots, _TINY)
        table(setting, tiny, arguments.threads, arguments.repeats, lambda line: print(line, flush=True))
        setting.slots.close()
        tiny.slots.close()


if __name__ == "__main__":
    main()
