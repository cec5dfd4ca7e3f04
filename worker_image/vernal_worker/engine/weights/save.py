"""From the GPU to a file, before a freeze."""

import os
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import TypedDict

from vernal_worker.checkpoint.cuda import numbers, transfer
from vernal_worker.checkpoint.cuda.driver import call
from vernal_worker.checkpoint.cuda.layout import STORED, file_names, ranges, spans


class Saved(TypedDict):
    """Travels over vLLM's own call back to the engine's main process, as `control.protocol.StoredRank`."""

    file: str
    segments: list[tuple[str, int]]
    digests: list[str]


def allocations() -> list[tuple[int, int, str]]:
    """Address, size and tag of everything that vLLM's sleep-mode allocator holds, by address."""
    from vllm.device_allocator.cumem import CuMemAllocator

    found = CuMemAllocator.get_instance().pointer_to_data
    return sorted((address, data.handle[1], data.tag) for address, data in found.items())


def stored(every: list[tuple[int, int, str]]) -> tuple[int, transfer.Parts]:
    """Of what `allocations` found: bytes of what is stored, and where they are."""
    places = [(address, size) for address, size, tag in every if tag == STORED]
    sizes = [size for _, size in places]

    def parts(offset: int, length: int) -> Iterator[tuple[int, int]]:
        for span in spans(sizes, offset, length):
            yield places[span.index][0] + span.start, span.length

    return sum(sizes), parts


def save(directory: Path, rank: int, piece: int, threads: int) -> Saved:
    """Write the weights to new files in `directory`, and say what they consist of.

    Args:
        piece: bytes that one digest stands for.

    Raises:
        OSError: the directory cannot be written; DriverError.
    """
    import torch

    torch.cuda.synchronize()
    numbers.own(torch.cuda.current_device())  # while the driver can tell
    every = allocations()
    size, parts = stored(every)
    file = f"rank-{rank}"
    with ExitStack() as stack:
        files = []
        for name in file_names(file, size):
            files.append(os.open(directory / name, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o600))
            stack.callback(os.close, files[-1])
        digests = transfer.store(files, ranges(size, piece), parts, call("cuCtxGetCurrent"), threads)
    return {"file": file, "segments": [(tag, size) for _, size, tag in every], "digests": digests}
