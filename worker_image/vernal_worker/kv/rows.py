"""The memory of several tensors as rows of equal length, so that one copy moves blocks of all of them.

A block of a KV cache is in as many places as there are layers. With a copy for each, a device spends more time on being
told what to copy than on copying.
"""

import ctypes
import itertools
from collections.abc import Sequence
from math import gcd
from types import SimpleNamespace
from typing import Any

import torch

_TYPES = {8: ("<i8", torch.int64), 4: ("<i4", torch.int32), 2: ("<i2", torch.int16), 1: ("|u1", torch.uint8)}


class Rows:
    """Blocks of `tensors`, each of which has the block as its first dimension. A block's bytes are those of all
    tensors, one after the other, each in the order of its dimensions, whatever their order in memory is.

    What is between the tensors in memory belongs to others. It is in the range that is addressed here, and in no row
    that a block has.

    Args:
        tensors: all on one device, and kept by somebody as long as this is used.
    """

    def __init__(self, tensors: Sequence[torch.Tensor]) -> None:
        device = tensors[0].device
        pieces = [(tensor, *_pieces(tensor)) for tensor in tensors]
        base = min(tensor.data_ptr() for tensor in tensors)
        end = max(tensor.data_ptr() + _span(tensor) for tensor in tensors)
        lengths = [
            number
            for tensor, length, offsets in pieces
            for number in (tensor.data_ptr() - base, tensor.stride(0) * tensor.element_size(), length, *offsets)
        ]
        width = gcd(*lengths)
        element, dtype = _TYPES[gcd(width, base, 8)]
        self.width = width
        """Of a row, in bytes."""
        self._memory = _memory(base, (end - base) // width, width // dtype.itemsize, element, device)
        starts: list[int] = []
        strides: list[int] = []
        for tensor, length, offsets in pieces:
            first = tensor.data_ptr() - base
            rows = [(first + at + row) // width for at in offsets for row in range(0, length, width)]
            starts += rows
            strides += [tensor.stride(0) * tensor.element_size() // width] * len(rows)
        self.count = len(starts)
        """Of a block."""
        self._starts = torch.tensor(starts, device=device)
        self._strides = torch.tensor(strides, device=device)
        self._tensors = tuple(tensors)

    def of(self, block_ids: torch.Tensor) -> torch.Tensor:
        """Which rows the blocks with these numbers have: those of each in a row. On the device of the tensors."""
        return torch.addcmul(self._starts, block_ids.unsqueeze(1), self._strides)

    def scatter(self, blocks: torch.Tensor, rows: torch.Tensor) -> None:
        """Copy the bytes of `blocks`, one a row, to blocks that have these rows (`of`)."""
        self._memory.index_copy_(0, rows.view(-1), self._rows(blocks))

    def gather(self, blocks: torch.Tensor, rows: torch.Tensor) -> None:
        """Copy blocks that have these rows to `blocks`."""
        torch.index_select(self._memory, 0, rows.view(-1), out=self._rows(blocks))

    def _rows(self, blocks: torch.Tensor) -> torch.Tensor:
        return blocks.view(self._memory.dtype).view(-1, self._memory.shape[1])


def _pieces(tensor: torch.Tensor) -> tuple[int, list[int]]:
    """Length of what is contiguous in a block, in bytes, and where each piece of a block begins, in their order."""
    size = tensor.element_size()
    length, dimension = 1, tensor.dim()
    while dimension > 1 and tensor.stride(dimension - 1) == length:
        dimension -= 1
        length *= tensor.shape[dimension]
    outer = [[at * tensor.stride(d) for at in range(tensor.shape[d])] for d in range(1, dimension)]
    return length * size, [sum(at) * size for at in itertools.product(*outer)]


def _span(tensor: torch.Tensor) -> int:
    """Bytes from the first element to behind the last."""
    last: int = sum((length - 1) * stride for length, stride in zip(tensor.shape, tensor.stride(), strict=True))
    return int(tensor.element_size()) * (last + 1)


def _memory(base: int, rows: int, width: int, element: str, device: torch.device) -> torch.Tensor:
    """A tensor of this memory, which it does not own."""
    dtype = next(dtype for name, dtype in _TYPES.values() if name == element)
    if device.type == "cpu":
        buffer = (ctypes.c_uint8 * (rows * width * dtype.itemsize)).from_address(base)
        return torch.frombuffer(buffer, dtype=dtype).view(rows, width)
    interface: dict[str, Any] = {"shape": (rows, width), "typestr": element, "data": (base, False), "version": 2}
    return torch.as_tensor(SimpleNamespace(__cuda_array_interface__=interface), device=device)
