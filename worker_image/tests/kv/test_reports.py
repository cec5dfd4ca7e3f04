"""Public reports of wrong KV out of shared stores, each as a case that must do no harm here.

The reports are of other projects' code, which is not run: what is shown is that what happened there is noticed, or
cannot happen, in this store.
"""

import itertools
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from kv_engine_model import BLOCK_BYTES, BLOCK_TOKENS, FACTS, Engine, fill, true_answer, true_blocks
from patience import GUARD_SECONDS
from vernal_worker.kv.blockfile import HEADER_BYTES, BlockError, Failure
from vernal_worker.kv.blockstore import BlockStore, Layout, Saved
from vernal_worker.kv.faults import Fault, Faults, Kind, Which
from vernal_worker.kv.fingerprint import fingerprint
from vernal_worker.kv.keys import block_keys
from vernal_worker.kv.loads import Move
from vernal_worker.kv.pages import Pages

ONE, OTHER = list(range(40)), list(range(100, 140))
"""Two conversations that have nothing in common."""


def store(root: Path, facts: dict[str, Any] = FACTS) -> BlockStore:
    return BlockStore(root, Layout(fingerprint(facts), BLOCK_TOKENS, BLOCK_BYTES))


def answers(engine: Engine, prompt: list[int]) -> dict[str, float]:
    """The answer is right; what was counted on the way."""
    engine.reset_prefix_cache()
    engine.counters.take()
    assert engine.run([prompt])[0].answer == true_answer(prompt)
    assert engine.unverified == 0
    assert engine.worker.flush(GUARD_SECONDS)
    if (lookup := engine.scheduler._lookup) is not None:  # what it found is remembered after it was told
        assert lookup._workers.drain(GUARD_SECONDS)
    return engine.counters.take()


def exchange(one: Path, other: Path) -> None:
    """Two files change their places: each holds another conversation's block."""
    aside = one.with_suffix(".aside")
    one.rename(aside)
    other.rename(one)
    aside.rename(other)


def exchange_contents(one: Path, other: Path) -> None:
    """The same, but the labels stay: as if memory had been used again while it was written."""
    (first, second) = (path.read_bytes() for path in (one, other))
    one.write_bytes(first[:HEADER_BYTES] + second[HEADER_BYTES:])
    other.write_bytes(second[:HEADER_BYTES] + first[HEADER_BYTES:])


@pytest.mark.parametrize(("how", "kind"), [(exchange, "swapped"), (exchange_contents, "corrupt")])
def test_a_returning_conversation_does_not_get_anothers(
    tmp_path: Path, how: Callable[[Path, Path], None], kind: str
) -> None:
    """https://github.com/LMCache/LMCache/issues/4385: answers from other requests' content, and nothing in the log."""
    fill(tmp_path, ONE, OTHER)
    for mine, theirs in zip(block_keys(ONE, BLOCK_TOKENS), block_keys(OTHER, BLOCK_TOKENS), strict=True):
        how(store(tmp_path).path(mine), store(tmp_path).path(theirs))
    engine = Engine(tmp_path, Faults(Fault()), slots=16)
    for prompt in (ONE, OTHER):
        assert answers(engine, prompt)[f"load_failures:{kind}"] > 0
    for prompt in (ONE, OTHER):
        assert answers(engine, prompt)["loaded_tokens"] > 0, "the right blocks took the wrong ones' place"
    engine.close()


def test_what_is_written_late_is_what_was_computed(tmp_path: Path) -> None:
    """https://github.com/LMCache/LMCache/issues/4385 and https://github.com/vllm-project/vllm/issues/52360: memory that
    was given to another request before storage had taken what was in it. Storage takes nothing until all is computed,
    in a KV cache that has room for one conversation."""
    hold = tmp_path / "hold"
    hold.touch()
    fault = Fault(kind=Kind.SLOW_SAVE, which=Which.ALL, hold=str(hold))
    engine = Engine(tmp_path, Faults(fault), blocks=12, slots=16)
    prompts = [[start, *ONE[1:]] for start in range(8)]
    for prompt in prompts:
        assert engine.run([prompt])[0].answer == true_answer(prompt)
    assert not list(tmp_path.glob("*/*/*.kv"))
    hold.unlink()
    assert engine.worker.flush(GUARD_SECONDS)
    found = 0
    for prompt in prompts:
        for key, value in zip(block_keys(prompt, BLOCK_TOKENS), true_blocks(prompt), strict=True):
            into = bytearray(BLOCK_BYTES)
            if store(tmp_path).contains(key):
                store(tmp_path).read(key, memoryview(into))
                assert bytes(into) == value
                found += 1
    assert found == 16, "as many as there were slots for"
    engine.close()


def test_a_store_that_failed_leaves_nothing_to_be_found(tmp_path: Path) -> None:
    """https://github.com/LMCache/LMCache/issues/4991: a save that failed stayed visible, and was loaded."""
    engine = Engine(tmp_path, Faults(Fault(kind=Kind.STORE_FULL, which=Which.ALL)), slots=16)
    answers(engine, ONE)
    assert "loaded_tokens" not in answers(engine, ONE)
    engine.close()


def test_what_vanished_is_not_offered_for_ever(tmp_path: Path) -> None:
    """https://github.com/vllm-project/vllm/issues/49176: a lookup's answer was remembered after the load had failed,
    and the request asked for the same again and again."""
    fill(tmp_path, ONE)
    engine = Engine(tmp_path, Faults(Fault()), slots=16)
    assert answers(engine, ONE)["loaded_tokens"] > 0, "from now on it is known to be there"
    for key in block_keys(ONE, BLOCK_TOKENS)[:-2]:  # the last that can be loaded stays, and speaks for the others
        store(tmp_path).path(key).unlink()
    assert answers(engine, ONE)["load_failures:missing"] > 0
    after = answers(engine, ONE)
    assert after["loaded_tokens"] > 0 and "recomputed_tokens" not in after, "saved anew, all of it"
    engine.close()


CHANGED: dict[str, dict[str, Any]] = {
    "https://github.com/vllm-project/vllm/pull/55191": {"tensor_parallel": 2},
    "https://github.com/vllm-project/vllm/pull/55191, another rank": {"rank": 1},
    "https://github.com/vllm-project/vllm/issues/55904": {"layers": [{"layer": "0", "shape": [1, 16, 2, 8]}]},
    "https://github.com/vllm-project/vllm/issues/49261": {"model": "hub:other weights"},
    "https://github.com/vllm-project/vllm/issues/56311": {"config": {"rope_parameters": {"factor": 2.0}}},
}
"""Engines that found one another's blocks although they compute others, of equal size: by how they differ."""


@pytest.mark.parametrize("report", CHANGED)
def test_an_engine_that_computes_other_blocks_finds_none(tmp_path: Path, report: str) -> None:
    facts: dict[str, Any] = {
        "model": "hub:weights",
        "config": {"rope_parameters": {"factor": 1.0}},
        "tensor_parallel": 1,
        "rank": 0,
        "layers": [{"layer": "0", "shape": [1, 2, 16, 8]}],
    }
    (key,) = block_keys(ONE[:BLOCK_TOKENS], BLOCK_TOKENS)
    one, other = store(tmp_path, facts), store(tmp_path, facts | CHANGED[report])
    assert one.write(key, memoryview(bytearray(BLOCK_BYTES))) is Saved.WRITTEN
    assert one.contains(key) and not other.contains(key)
    other.path(key).parent.mkdir(parents=True)
    os.link(one.path(key), other.path(key))
    with pytest.raises(BlockError) as caught:
        other.read(key, memoryview(bytearray(BLOCK_BYTES)))
    assert caught.value.failure is Failure.SWAPPED, "not even where somebody copied directories into one another"


LAYERS, BLOCKS, HEADS, TOKENS, CONTENT = 3, 4, 2, 2, 6
"""As many heads as tokens: the shape of a layer does not say which is which."""

MEMORY_ORDERS = ("LBHNC", "LBNHC", "LHBNC", "BLHNC", "BLNHC", "BHLNC")
"""vLLM's (`vllm/v1/kv_cache_layout.py`), in which K and V share the content dimension."""


def cache(order: str) -> dict[str, torch.Tensor]:
    """Layers as vLLM registers them: blocks, heads, tokens, content, whatever their order in memory is."""
    sizes = dict(zip("LBHNC", (LAYERS, BLOCKS, HEADS, TOKENS, CONTENT), strict=True))
    whole = torch.zeros([sizes[name] for name in order]).permute([order.index(name) for name in "LBHNC"])
    return {f"layer{n}": whole[n] for n in range(LAYERS)}


@pytest.mark.parametrize(("mine", "theirs"), list(itertools.product(MEMORY_ORDERS, repeat=2)))
def test_a_block_means_the_same_in_every_memory_layout(mine: str, theirs: str) -> None:
    """https://github.com/LMCache/LMCache/pull/4467 took heads for K and V where the shape allowed both;
    https://github.com/vllm-project/vllm/issues/55904 read blocks of one memory layout into another."""
    source, target = cache(mine), cache(theirs)
    for number, layer in enumerate(source.values()):
        layer.copy_(torch.randn(layer.shape) + number)
    pages, others = Pages(source, BLOCKS), Pages(target, BLOCKS)
    assert pages.description == others.description, "they share"
    host = pages.host_slots(1 << 10)
    pages.save(host, [Move(0, 1)]).wait()
    others.load(host, [Move(0, 3)]).wait()
    for name, layer in target.items():
        assert torch.equal(layer[3], source[name][1])
        assert not layer[:3].any()
