"""How fast blocks come from files into the KV cache, step by step and without an engine: `python -m kv_recovery.speed`.

Blocks have the form of Qwen3-8B's: 36 layers, 2.36 MB for 16 tokens. Their files are written, and so in the page cache,
before anything is measured. The KV cache is on the GPU if there is one.

What a block costs beside its bytes is what as many blocks of 64 bytes a layer take; and what of that is this process's,
which is the engine's: processor time that its own thread does not get.
"""

import argparse
import math
import os
import statistics
import tempfile
import time
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from patience import GUARD_SECONDS
from vernal_worker.kv.blockstore import BlockStore, Layout
from vernal_worker.kv.counters import Counters
from vernal_worker.kv.crew import Crew
from vernal_worker.kv.jobs import MOST_BLOCKS, Job, joined, parts
from vernal_worker.kv.loader import Loader
from vernal_worker.kv.loads import Block, Loaded, Move
from vernal_worker.kv.pages import Pages
from vernal_worker.kv.processes import processes
from vernal_worker.kv.settings import Settings
from vernal_worker.kv.slots import Fence

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

    def crew(self, size: int) -> Crew:
        """As a worker has it: processes that read and verify, `size` blocks at a time."""
        return processes("vernal-kv-speed", size, self.store, self.slots, writes=False, populate=self.pages.page_locked)

    def copy(self, moves: Sequence[Move]) -> Fence:
        return self.pages.load(self.slots, moves)


class Reading:
    """Reads by processes, without a loader: each job is a run in slots of its own.

    Args:
        verify: whether they hash what they read.
    """

    def __init__(self, setting: Setting, size: int, *, verify: bool) -> None:
        self._setting, self._crew, self._verify = setting, setting.crew(size), verify
        self._run = max(1, min(MOST_BLOCKS, setting.slots.count // (2 * size)))

    def seconds(self) -> float:
        """For all blocks once."""
        assert self._crew.ready()
        start = time.monotonic()
        waiting = deque(parts(len(self._setting.blocks), self._run))
        free = deque(range(self._setting.slots.count // self._run))
        under_way: dict[int, tuple[int, int]] = {}  # place, and blocks to come
        left = len(self._setting.blocks)
        while left:
            while waiting and free:
                part, place = waiting.popleft(), free.popleft()
                keys = joined([block.key for block in self._setting.blocks[part]])
                self._crew.send(Job(part.start, "", place * self._run, keys, verify=self._verify))
                under_way[part.start] = place, part.stop - part.start
            for answer in self._crew.receive(None):
                if any(answer.outcomes):
                    raise RuntimeError(f"blocks were not read: {answer.message}")
                left -= len(answer.outcomes)
                place, to_come = under_way.pop(answer.number)
                if to_come > len(answer.outcomes):
                    under_way[answer.number] = place, to_come - len(answer.outcomes)
                else:
                    free.append(place)
        return time.monotonic() - start

    def close(self) -> None:
        self._crew.close()


class Loading:
    """Loads as a worker does them: this thread is the engine's, and the engine is idle."""

    def __init__(self, setting: Setting, size: int) -> None:
        self._setting = setting
        stream = setting.pages.copy_stream(setting.slots)
        self.hashes = stream is not None and stream.hashes
        self._loader = Loader(setting.crew(size), setting.slots, Counters(), stream)

    def seconds(self) -> float:
        """For a load of all blocks.

        Raises:
            RuntimeError: some could not be loaded.
        """
        setting, loader = self._setting, self._loader
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
        return seconds

    def processor_seconds(self) -> float:
        """Of this process, for a load of all blocks."""
        start = time.process_time()
        self.seconds()
        return time.process_time() - start

    def close(self) -> None:
        self._loader.stop()


def table(setting: Setting, tiny: Setting, threads: Sequence[int], repeats: int, say: Callable[[str], None]) -> None:
    """Prints GiB/s of each step, the median of `repeats`, for each number of reads at a time."""
    count = len(setting.blocks)
    gib = count * setting.pages.block_bytes / 2**30
    say(
        f"{count} blocks, {gib:.2f} GiB, {setting.slots.count} slots, "
        f"KV cache on {torch.cuda.get_device_name() if setting.pages.page_locked else 'CPU'}, {os.cpu_count()} cores"
    )
    say("GiB/s       read by processes   and hashed   into the KV cache      ms   hashed by   a block beside its bytes")
    for size in threads:
        loading = Loading(setting, size)
        steps = Reading(setting, size, verify=False), Reading(setting, size, verify=True), loading
        read, hashed, whole = (_median(step.seconds, repeats) for step in steps)
        small = Loading(tiny, size)
        beside, ours = (_median(run, repeats) / count * 1e6 for run in (small.seconds, small.processor_seconds))
        for step in (*steps, small):
            step.close()
        say(
            f"{size:3} threads {gib / read:17.1f} {gib / hashed:12.1f} {gib / whole:19.1f} {whole * 1000:7.0f} "
            f"{'the GPU' if loading.hashes else 'the CPU':>11} {beside:9.0f} µs, {ours:.0f} of this process"
        )


def _median(run: Callable[[], float], repeats: int) -> float:
    """The first, in which processes start and memory is had, does not count."""
    run()
    return statistics.median(run() for _ in range(repeats))


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m kv_recovery.speed",
        description=__doc__,
        epilog="Example, 40 s on a GPU machine: `PYTHONPATH=e2e:worker_image:contract python3 -m kv_recovery.speed`.",
    )
    parser.add_argument("--blocks", type=int, default=768, help="default: 768, of 12,288 tokens")
    parser.add_argument("--layers", type=int, default=_LAYERS, help="of 64 KiB each in a block (default: 36)")
    parser.add_argument(
        "--threads", type=int, nargs="+", default=[_DEFAULTS.threads, 4, 8], help="a line of the table for each"
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
