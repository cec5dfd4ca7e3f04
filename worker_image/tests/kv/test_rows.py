"""One copy moves a block of all layers, and nothing else in the memory that they are spread over."""

import pytest
import torch
from vernal_worker.kv.rows import Rows

BLOCKS = 5


def arena(*shapes: tuple[int, ...]) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """Tensors with gaps between them, and the memory that they are in."""
    gap, sizes = 24, [torch.Size(shape).numel() for shape in shapes]
    memory = torch.randint(0, 255, (sum(sizes) + gap * (len(shapes) + 1),), dtype=torch.uint8)
    tensors, at = [], gap
    for shape, size in zip(shapes, sizes, strict=True):
        tensors.append(memory[at : at + size].view(shape))
        at += size + gap
    return memory, tensors


def layers(form: str) -> tuple[torch.Tensor, list[torch.Tensor]]:
    match form:
        case "plain":
            return arena((BLOCKS, 2, 16, 8), (BLOCKS, 2, 16, 8))
        case "heads and tokens swapped":
            memory, tensors = arena((BLOCKS, 2, 16, 8, 4))
            return memory, [tensor.transpose(2, 3) for tensor in tensors]
        case "all layers in a block":
            memory, (whole,) = arena((BLOCKS, 3, 2, 16))
            return memory, [whole[:, n] for n in range(3)]
        case "of different length":
            return arena((BLOCKS, 9), (BLOCKS, 4, 6))
        case _:
            memory, tensors = arena((BLOCKS, 2, 16, 8))
            return memory, [tensor.view(torch.int32) for tensor in tensors]


FORMS = ["plain", "heads and tokens swapped", "all layers in a block", "of different length", "wide elements"]


@pytest.mark.parametrize("form", FORMS)
def test_blocks_are_copied_and_nothing_else(form: str) -> None:
    memory, tensors = layers(form)
    raw = [tensor.contiguous().view(BLOCKS, -1).view(torch.uint8).clone() for tensor in tensors]
    rows = Rows(tensors)
    blocks = torch.zeros((2, sum(part.shape[1] for part in raw)), dtype=torch.uint8)
    rows.gather(blocks, rows.of(torch.tensor([3, 1])))
    assert torch.equal(blocks, torch.cat([part[[3, 1]] for part in raw], 1))

    before = memory.clone()
    new = torch.randint(0, 255, blocks.shape, dtype=torch.uint8)
    rows.scatter(new, rows.of(torch.tensor([4, 0])))
    after = torch.cat([tensor.contiguous().view(BLOCKS, -1).view(torch.uint8) for tensor in tensors], 1)
    assert torch.equal(after[[4, 0]], new)
    rows.scatter(torch.cat([part[[4, 0]] for part in raw], 1), rows.of(torch.tensor([4, 0])))
    assert torch.equal(memory, before), "the gaps, and the other blocks, are as they were"
