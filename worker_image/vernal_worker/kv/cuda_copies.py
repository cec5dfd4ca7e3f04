"""Copies between host memory and a GPU's KV cache that do not wait for the engine's work, nor that for them."""

from collections.abc import Iterator, Sequence

import torch

from vernal_worker.checkpoint.cuda.digest import DIGEST_BYTES, Kernels, scratch_bytes
from vernal_worker.kv.jobs import parts
from vernal_worker.kv.loads import Run
from vernal_worker.kv.rows import Rows

_LOADING_BYTES = 64 << 20  # of device memory for what is loaded
_LOADED_BYTES = 16 << 20  # of it for a copy and a kernel
_PIECE_BYTES = 32 << 20
_SAVING_BYTES = 256 << 20  # of device memory for what is saved, where so much is saved at a time
_MOST_ROWS = 1 << 20  # of a load, for which the device keeps their numbers: 8 MiB


class Hasher:
    """BLAKE3 of blocks of `block_bytes` on `device`, `most` of them at a time.

    Raises:
        OSError: there are no kernels for this kind of GPU; DriverError.
    """

    def __init__(self, device: torch.device, block_bytes: int, most: int) -> None:
        self._block_bytes = block_bytes
        self._scratch = torch.empty(most * scratch_bytes(block_bytes), dtype=torch.uint8, device=device)
        self._digests = torch.empty((most, DIGEST_BYTES), dtype=torch.uint8, device=device)
        self._kernels = Kernels(self._scratch.device.index)

    def hash(self, blocks: torch.Tensor, stream: torch.cuda.Stream) -> torch.Tensor:
        """Their digests, one a row, until it is called again in the same stream."""
        count, scratch, found = len(blocks), self._scratch.data_ptr(), self._digests
        self._kernels.hash(stream.cuda_stream, blocks.data_ptr(), count, self._block_bytes, scratch, found.data_ptr())
        return found[:count]

    def close(self) -> None:
        """Nothing is being hashed any more."""
        self._kernels.close()


class _Piece:
    """Device memory that blocks pass through."""

    def __init__(self, count: int, block_bytes: int, device: torch.device) -> None:
        self.memory = torch.empty((count, block_bytes), dtype=torch.uint8, device=device)
        self.full = torch.cuda.Event()
        self.free = torch.cuda.Event()


class CudaCopies:
    """Copies from `memory`, page-locked and with one block a row, to `rows`. See `copy_stream.CopyStream` for who may
    call what.

    They go before other work, of which they take next to nothing: a copy by a copy engine, then short kernels, in a
    stream of its own each, so that the bus need not wait for kernels.

    Args:
        digests: page-locked memory for a digest of each row of `memory`.
        hasher: makes them, where the device does.
    """

    def __init__(
        self, rows: Rows, memory: torch.Tensor, digests: torch.Tensor, device: torch.device, hasher: Hasher | None
    ) -> None:
        self._rows = rows
        self._memory = memory
        self._digests = digests
        self._device = device
        self._hasher = hasher
        self.hashes = hasher is not None
        self._bus = torch.cuda.Stream(device, priority=-1)
        self._stream = torch.cuda.Stream(device, priority=-1)
        self._uploads = torch.cuda.Stream(device, priority=-1)  # which has nothing to wait for
        self._marked: torch.cuda.Event | None = None
        self._most = most(memory.shape[1])
        number = max(2, _LOADING_BYTES // (self._most * memory.shape[1]))
        with torch.cuda.stream(self._bus):
            self._pieces = [_Piece(self._most, memory.shape[1], device) for _ in range(number)]
        self._next = 0

    def mark(self) -> None:
        self._marked = self._marked or torch.cuda.Event()
        self._marked.record(torch.cuda.current_stream(self._device))

    def begin(self) -> None:
        if self._marked is None:
            self.mark()
        self._stream.wait_event(self._marked)

    def prepare(self, block_ids: Sequence[int]) -> torch.Tensor:
        """The rows of the blocks, or their numbers where these are fewer by far. Numbers come from memory that is not
        page-locked, for which a stream may be waited for: one that has nothing to do."""
        with torch.cuda.stream(self._uploads):
            target = torch.tensor(block_ids).to(self._device)
            if len(block_ids) * self._rows.count <= _MOST_ROWS:
                target = self._rows.of(target)
        target.record_stream(self._stream)
        self._stream.wait_stream(self._uploads)
        return target

    def copy(self, runs: Sequence[Run]) -> "Event":
        """A copy and a kernel or three for each run, and for runs together that follow one another both in slots and
        blocks."""
        for run in joined(runs, self._most):
            self._copy(run, self._pieces[self._next])
            self._next = (self._next + 1) % len(self._pieces)
        return Event(self._stream)

    def _copy(self, run: Run, piece: _Piece) -> None:
        slots = slice(run.slot, run.slot + run.length)
        blocks = piece.memory[: run.length]
        with torch.cuda.stream(self._bus):
            self._bus.wait_event(piece.free)
            blocks.copy_(self._memory[slots], non_blocking=True)
            piece.full.record(self._bus)
        with torch.cuda.stream(self._stream):
            self._stream.wait_event(piece.full)
            if self._hasher is not None:
                self._digests[slots].copy_(self._hasher.hash(blocks, self._stream), non_blocking=True)
            rows = run.target[run.first : run.first + run.length]
            self._rows.scatter(blocks, rows if rows.dim() > 1 else self._rows.of(rows))
            piece.free.record(self._stream)

    def digests(self, slots: range) -> bytes:
        found: bytes = self._digests[slots.start : slots.stop].numpy().tobytes()
        return found

    def end(self) -> None:
        torch.cuda.current_stream(self._device).wait_stream(self._stream)


def most(block_bytes: int) -> int:
    """How many blocks of a load are copied at a time."""
    return max(1, _LOADED_BYTES // block_bytes)


class CudaSaves:
    """Copies from `rows` to page-locked memory that the engine's work waits for as little as can be.

    Blocks are the engine's again as soon as it has the device do what comes next. So they are gathered in the order of
    its work, which takes next to nothing, into pieces of device memory; the bus takes them from there beside what
    comes next, which waits only where no piece is free.

    Args:
        block_bytes: of a block.
        most: bytes that are worth having room for.

    Raises:
        torch.cuda.OutOfMemoryError: there is no room at all. With less than is wanted it does.
    """

    def __init__(self, rows: Rows, block_bytes: int, most: int, device: torch.device) -> None:
        self._rows = rows
        self._device = device
        self._stream = torch.cuda.Stream(device)
        count = max(1, _PIECE_BYTES // block_bytes)
        number = max(1, min(_SAVING_BYTES, most) // (count * block_bytes))
        self._gathered = torch.cuda.Event()
        self._pieces: list[tuple[torch.Tensor, torch.cuda.Event]] = []
        self._next = 0
        for _ in range(number):
            try:
                piece = torch.empty((count, block_bytes), dtype=torch.uint8, device=device)
            except torch.cuda.OutOfMemoryError:
                if not self._pieces:
                    raise
                break
            self._pieces.append((piece, torch.cuda.Event()))

    def save(self, block_ids: torch.Tensor, memory: torch.Tensor, slots: Sequence[int]) -> "Event":
        """Copy blocks to rows of `memory`; `slots` are in order, and `block_ids` on the device."""
        current = torch.cuda.current_stream(self._device)
        rows = self._rows.of(block_ids)
        for part in parts(len(slots), len(self._pieces[0][0])):
            piece, free = self._pieces[self._next]
            self._next = (self._next + 1) % len(self._pieces)
            current.wait_event(free)
            self._rows.gather(piece[: part.stop - part.start], rows[part])
            self._gathered.record(current)
            self._stream.wait_event(self._gathered)
            with torch.cuda.stream(self._stream):
                for run, at in adjacent(slots[part]):
                    memory[run].copy_(piece[at], non_blocking=True)
            free.record(self._stream)
        return Event(self._stream)


def joined(runs: Sequence[Run], most: int) -> list[Run]:
    """The same in as few runs as can be, none of more than `most` blocks."""
    fewer: list[Run] = []
    for run in sorted(runs, key=lambda run: run.slot):
        last = fewer[-1] if fewer else None
        if (
            last is not None
            and last.target is run.target
            and (last.first + last.length, last.slot + last.length) == (run.first, run.slot)
            and last.length + run.length <= most
        ):
            fewer[-1] = last._replace(length=last.length + run.length)
        else:
            fewer.append(run)
    return fewer


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


def adjacent(numbers: Sequence[int]) -> Iterator[tuple[slice, slice]]:
    """Runs of numbers that follow one another, each as a slice of what they number, and of where they are in `numbers`,
    which are in order."""
    start = 0
    for at in range(1, len(numbers) + 1):
        if at == len(numbers) or numbers[at] != numbers[at - 1] + 1:
            yield slice(numbers[start], numbers[at - 1] + 1), slice(start, at)
            start = at
