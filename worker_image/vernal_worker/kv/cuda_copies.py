"""Copies between host memory and a GPU's KV cache that do not wait for the engine's work, nor that for them."""

from collections.abc import Iterator, Sequence

import torch

from vernal_worker.kv.loads import Move
from vernal_worker.kv.rows import Rows

_STAGING_BYTES = 16 << 20  # of device memory: what one thread hands over at a time, and more


class CudaCopies:
    """A stream of its own for copies from `memory`, page-locked and with one block a row, to `rows`. See
    `vernal_worker.kv.loader.CopyStream` for who may call what.

    It goes before other work, of which it takes next to nothing: a copy by a copy engine, then one short kernel.
    """

    def __init__(self, rows: Rows, memory: torch.Tensor, device: torch.device) -> None:
        self._rows = rows
        self._memory = memory
        self._device = device
        self._stream = torch.cuda.Stream(device, priority=-1)
        self._marked: torch.cuda.Event | None = None
        count = max(1, _STAGING_BYTES // memory.shape[1])
        with torch.cuda.stream(self._stream):
            self._staging = torch.empty((count, memory.shape[1]), dtype=torch.uint8, device=device)

    def mark(self) -> None:
        self._marked = self._marked or torch.cuda.Event()
        self._marked.record(torch.cuda.current_stream(self._device))

    def begin(self) -> None:
        if self._marked is None:
            self.mark()
        self._stream.wait_event(self._marked)

    def copy(self, moves: Sequence[Move]) -> "Event":
        with torch.cuda.stream(self._stream):
            for start in range(0, len(moves), len(self._staging)):
                part = sorted(moves[start : start + len(self._staging)])
                for slots, at in adjacent([move.slot for move in part]):
                    self._staging[at].copy_(self._memory[slots], non_blocking=True)
                block_ids = on_device([move.block_id for move in part], self._device)
                self._rows.scatter(self._staging[: len(part)], block_ids)
        return Event(self._stream)

    def end(self) -> None:
        torch.cuda.current_stream(self._device).wait_stream(self._stream)


class Event:
    """A fence on what `stream` was given to do so far. Who waits for it sleeps: the threads that save wait for a step,
    which may be long, and would each keep a core busy otherwise."""

    def __init__(self, stream: torch.cuda.Stream) -> None:
        self._event = torch.cuda.Event(blocking=True)
        self._event.record(stream)

    def done(self) -> bool:
        return bool(self._event.query())

    def wait(self) -> None:
        self._event.synchronize()


def on_device(numbers: Sequence[int], device: torch.device) -> torch.Tensor:
    """In the current stream, without waiting for what that has to do."""
    return torch.tensor(numbers, pin_memory=True).to(device, non_blocking=True)


def adjacent(numbers: Sequence[int]) -> Iterator[tuple[slice, slice]]:
    """Runs of numbers that follow one another, each as a slice of what they number, and of where they are in `numbers`,
    which are in order."""
    start = 0
    for at in range(1, len(numbers) + 1):
        if at == len(numbers) or numbers[at] != numbers[at - 1] + 1:
            yield slice(numbers[start], numbers[at - 1] + 1), slice(start, at)
            start = at
