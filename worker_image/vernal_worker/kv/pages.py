"""The engine's KV cache as blocks of bytes: copies between it and slots of host memory, on any device.

A block's bytes are those of all layers in the order in which the engine names them, each layer's in the order of its
tensor's dimensions, whatever their order in memory is.
"""

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import torch

from vernal_worker.checkpoint.cuda.digest import hashable, problem
from vernal_worker.checkpoint.cuda.driver import DriverError
from vernal_worker.kv import LOGGER
from vernal_worker.kv.blockfile import DIGEST_BYTES
from vernal_worker.kv.cuda_copies import CudaCopies, CudaSaves, Hasher, adjacent, most
from vernal_worker.kv.loads import Move
from vernal_worker.kv.rows import Rows
from vernal_worker.kv.shared_memory import SharedMemory
from vernal_worker.kv.slots import Done, Fence, Slots

_logger = logging.getLogger(LOGGER)
_NUMBER_BYTES = 8
_INTEGERS = (torch.int64, torch.int32, torch.int16, torch.uint8)


class UnsupportedCacheError(Exception):
    """The KV cache has a form that blocks cannot be cut from; the message says which."""


@dataclass(frozen=True)
class _Layer:
    """`blocks` has the block as its first dimension, and integers as elements, as wide as fits all layers: copies know
    nothing of the engine's type, and wide elements are faster."""

    name: str
    blocks: torch.Tensor
    shape: tuple[int, ...]  # of one block, in elements of the engine's own type
    dtype: str
    offset: int  # in the block's bytes
    bytes: int


class Pages:
    """The KV cache of one worker.

    Args:
        caches: tensors by layer name, as vLLM registers them: blocks are the first dimension, or equal parts of it.
        num_blocks: number of blocks that the scheduler knows.

    Raises:
        UnsupportedCacheError: a layer is not of that form.
    """

    def __init__(self, caches: Mapping[str, Any], num_blocks: int) -> None:
        for name, cache in caches.items():
            _check(name, cache, num_blocks)
        element = next(dtype for dtype in _INTEGERS if all(_fits(cache, dtype) for cache in caches.values()))
        layers: list[_Layer] = []
        seen: set[tuple[int, tuple[int, ...]]] = set()
        offset = 0
        for name, cache in caches.items():
            place = (cache.data_ptr(), tuple(cache.shape))
            if place in seen:  # layers that share one cache
                continue
            seen.add(place)
            layer = _layer(name, cache, element, num_blocks, offset)
            layers.append(layer)
            offset += layer.bytes
        if not layers:
            raise UnsupportedCacheError("there are no layers with a KV cache")
        self._layers = layers
        self._device = layers[0].blocks.device
        self._rows = Rows([layer.blocks for layer in layers]) if self._device.type == "cuda" else None
        self._saves: CudaSaves | None = None
        self._hasher: Hasher | None = None
        self.block_bytes = offset
        self.page_locked = self._device.type == "cuda"
        """Whether slots take a moment to make."""

    @property
    def description(self) -> list[dict[str, Any]]:
        """Name, element type and shape of a block of each layer: part of the fingerprint."""
        return [{"layer": layer.name, "dtype": layer.dtype, "shape": list(layer.shape)} for layer in self._layers]

    def host_slots(self, budget_bytes: int) -> "HostSlots":
        """Slots of host memory for about `budget_bytes`, page-locked if the KV cache is on a GPU."""
        return HostSlots(max(2, budget_bytes // self.block_bytes), self.block_bytes, self._device)

    def release(self) -> None:
        """Wait for copies and give device memory back that is only there for them."""
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        if self._hasher is not None:
            self._hasher.close()
        self._saves = self._hasher = None

    def copy_stream(self, host: "HostSlots") -> CudaCopies | None:
        """A stream for copies from slots, on a GPU. Elsewhere they are `load`'s."""
        if self._rows is None:
            return None
        self._hasher = self._hasher or self._new_hasher()
        return CudaCopies(self._rows, host.memory, host.digests, self._device, self._hasher)

    def _new_hasher(self) -> Hasher | None:
        if not hashable(self.block_bytes):
            return None
        try:
            return Hasher(self._device, self.block_bytes, most(self.block_bytes))
        except (OSError, DriverError) as error:
            _logger.warning("KV blocks are verified by the CPU, which takes longer: %s", problem(error))
            return None

    def load(self, host: "HostSlots", moves: Sequence[Move]) -> Fence:
        """Copy from slots into the KV cache, on a CPU."""
        for slots, block_ids in _runs(moves):
            self._apply(host.memory[slots], block_ids)
        return Done()

    def save(self, host: "HostSlots", moves: Sequence[Move]) -> Fence:
        """Enqueue copies from the KV cache into slots, after what the device was given to do before."""
        if self._rows is None:
            for slots, block_ids in _runs(moves):
                self._fetch(host.memory[slots], block_ids)
            return Done()
        if self._saves is None:
            self._saves = CudaSaves(self._rows, self.block_bytes, host.memory.numel(), self._device)
        moves = sorted(moves)
        block_ids = host.upload(moves, self._device)
        return self._saves.save(block_ids, host.memory, [move.slot for move in moves])

    def _apply(self, rows: torch.Tensor, block_ids: Sequence[int]) -> None:
        index = torch.tensor(block_ids)
        for layer in self._layers:
            layer.blocks.index_copy_(0, index, self._part(rows, layer))

    def _fetch(self, rows: torch.Tensor, block_ids: Sequence[int]) -> None:
        index = torch.tensor(block_ids)
        for layer in self._layers:
            self._part(rows, layer).copy_(layer.blocks.index_select(0, index))

    @staticmethod
    def _part(rows: torch.Tensor, layer: _Layer) -> torch.Tensor:
        """The bytes of one layer in `rows`, as a view of the layer's form."""
        part = rows[:, layer.offset : layer.offset + layer.bytes].view(layer.blocks.dtype)
        return part.unflatten(1, layer.blocks.shape[1:])


class HostSlots(Slots):
    """Slots in memory that those who read and write have too, for copies to and from `device`. Behind them is a number
    for each slot, for `upload`, and a digest.

    Page-locked by registration rather than by PyTorch's allocator, which keeps what it once locked: at a freeze it must
    be gone.

    Attributes:
        memory: a tensor of bytes, one row a slot.
        digests: another, for what the device says of each.
    """

    def __init__(self, count: int, slot_bytes: int, device: torch.device) -> None:
        """Raises: OSError: there is no memory for them."""
        numbers = -(-count * slot_bytes // _NUMBER_BYTES) * _NUMBER_BYTES  # where they begin
        digests = numbers + count * _NUMBER_BYTES
        self._shared = SharedMemory(digests + count * DIGEST_BYTES)
        assert self._shared.bytes is not None
        super().__init__(memoryview(self._shared.bytes)[: count * slot_bytes], slot_bytes)
        self.descriptor = self._shared.descriptor
        self._whole = torch.frombuffer(self._shared.bytes, dtype=torch.uint8)
        self.memory = self._whole[: count * slot_bytes].view(count, slot_bytes)
        self._numbers = self._whole[numbers:digests].view(torch.int64)
        self.digests = self._whole[digests:].view(count, DIGEST_BYTES)
        self._device = device
        self._locked = False
        if device.type == "cuda":
            with torch.cuda.device(device):
                error = torch.cuda.cudart().cudaHostRegister(self._whole.data_ptr(), self._whole.numel(), 0)
            self._locked = int(error) == 0
            if not self._locked:
                _logger.warning(
                    "%d MiB cannot be page-locked (%s): copies will be slower", self._whole.numel() >> 20, error
                )

    def upload(self, moves: Sequence[Move], device: torch.device) -> torch.Tensor:
        """The blocks' numbers, on `device`, in the current stream and without waiting for what that has to do. They
        are in page-locked memory until then, each beside its slot: nobody else has that before the copy is over."""
        numbers = torch.empty(len(moves), dtype=torch.int64, device=device)
        block_ids = torch.tensor([move.block_id for move in moves])
        for slots, at in adjacent([move.slot for move in moves]):
            self._numbers[slots] = block_ids[at]
            numbers[at].copy_(self._numbers[slots], non_blocking=True)
        return numbers

    def close(self) -> None:
        if self._locked:
            with torch.cuda.device(self._device):
                torch.cuda.cudart().cudaHostUnregister(self._whole.data_ptr())
            self._locked = False
        super().close()
        self.descriptor = None
        self.memory = self.digests = self._numbers = self._whole = torch.empty(0, dtype=torch.uint8)
        self._shared.close()


def _runs(moves: Sequence[Move]) -> Iterator[tuple[slice, list[int]]]:
    """Slots that follow one another, and the blocks that go there or come from there."""
    moves = sorted(moves)
    for slots, at in adjacent([move.slot for move in moves]):
        yield slots, [move.block_id for move in moves[at]]


def _check(name: str, cache: Any, num_blocks: int) -> None:
    if not isinstance(cache, torch.Tensor):
        raise UnsupportedCacheError(f"layer {name} has a cache of several tensors")
    rows = cache.shape[0] if cache.dim() > 1 else 0
    if rows < num_blocks or rows % num_blocks:
        raise UnsupportedCacheError(
            f"layer {name}: the first dimension of {tuple(cache.shape)} is not {num_blocks} blocks"
        )
    if cache.stride(-1) != 1:
        raise UnsupportedCacheError(f"layer {name}: the last dimension of its cache is not contiguous")


def _fits(cache: torch.Tensor, dtype: torch.dtype) -> bool:
    """Whether `cache` can be seen as elements of `dtype`, whole ones in each dimension."""
    size, width = cache.element_size(), dtype.itemsize
    lengths = (cache.shape[-1], cache.storage_offset(), *cache.stride()[:-1])
    return all(length * size % width == 0 for length in lengths)


def _layer(name: str, cache: torch.Tensor, element: torch.dtype, num_blocks: int, offset: int) -> _Layer:
    shape = (cache.shape[0] // num_blocks, *cache.shape[1:])
    blocks = cache.view(element).unflatten(0, (num_blocks, shape[0]))
    size = prod(shape) * cache.element_size()
    return _Layer(name, blocks, shape, str(cache.dtype), offset, size)
