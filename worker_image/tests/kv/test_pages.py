"""Blocks come out of an engine's KV cache and go back into another, whatever its form in memory."""

from collections.abc import Callable

import pytest
import torch
from vernal_worker.kv.loads import Move
from vernal_worker.kv.pages import Pages, UnsupportedCacheError

BLOCKS = 6


def strided() -> dict[str, torch.Tensor]:
    """Heads and tokens swapped in memory, and all layers in one tensor, as vLLM's cross-layer layout has it."""
    whole = torch.randn(BLOCKS, 2, 16, 4, 8)
    return {f"layer{n}": whole[:, n].transpose(1, 2) for n in range(2)}


FORMS: dict[str, Callable[[], dict[str, torch.Tensor]]] = {
    "plain": lambda: {f"layer{n}": torch.randn(BLOCKS, 4, 16, 8) for n in range(3)},
    "strided": strided,
    "split into smaller kernel blocks": lambda: {"layer0": torch.randn(BLOCKS * 4, 4, 4, 8)},
    "latent": lambda: {"layer0": torch.randn(BLOCKS, 16, 9).to(torch.bfloat16)},
    "fp8 and float": lambda: {
        "layer0": torch.randn(BLOCKS, 4, 16, 8).to(torch.float8_e4m3fn),
        "layer1": torch.randn(BLOCKS, 4, 16, 3),
    },
    "odd bytes": lambda: {"layer0": torch.randint(0, 255, (BLOCKS, 3, 5), dtype=torch.uint8)},
}


def raw(cache: torch.Tensor) -> torch.Tensor:
    return cache.contiguous().view(torch.uint8).reshape(BLOCKS, -1)


@pytest.mark.parametrize("form", FORMS)
def test_blocks_survive_the_way_through_host_memory(form: str) -> None:
    caches = FORMS[form]()
    pages = Pages(caches, BLOCKS)
    before = {name: raw(cache).clone() for name, cache in caches.items()}
    host = pages.host_slots(1 << 20)
    pages.save(host, [Move(1, 4), Move(0, 2)]).wait()
    for cache in caches.values():
        cache.view(torch.uint8).zero_()
    assert pages.load(host, [Move(0, 3), Move(1, 5)]).done()
    for name, cache in caches.items():
        after = raw(cache)
        assert torch.equal(after[3], before[name][2])
        assert torch.equal(after[5], before[name][4])
        assert not after[[0, 1, 2, 4]].any(), "no other block was touched"
    assert pages.block_bytes == sum(len(rows[0]) for rows in before.values())


def test_layers_that_share_a_cache_are_kept_once() -> None:
    cache = torch.randn(BLOCKS, 4, 16, 8)
    assert Pages({"a": cache, "b": cache}, BLOCKS).block_bytes == Pages({"a": cache}, BLOCKS).block_bytes


@pytest.mark.parametrize(
    ("caches", "message"),
    [
        ({}, "no layers"),
        ({"mamba": [torch.zeros(BLOCKS, 2)]}, "several tensors"),
        ({"a": torch.zeros(2, BLOCKS, 4, 8)}, "blocks"),
        ({"a": torch.zeros(BLOCKS, 4, 8).transpose(1, 2)}, "contiguous"),
    ],
)
def test_a_form_that_cannot_be_cut_is_refused(caches: dict[str, object], message: str) -> None:
    with pytest.raises(UnsupportedCacheError, match=message):
        Pages(caches, BLOCKS)
