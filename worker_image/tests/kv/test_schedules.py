"""A thousand random schedules of faults, requests and steps: none loads, keeps or spreads a wrong byte."""

import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from kv_engine_model import BLOCK_BYTES, BLOCK_TOKENS, FACTS, Engine, true_answer, true_blocks
from patience import GUARD_SECONDS
from vernal_worker.kv import lookup
from vernal_worker.kv.blockfile import BlockError
from vernal_worker.kv.blockstore import BlockStore, Layout
from vernal_worker.kv.faults import Fault, Faults, Kind, Where, Which
from vernal_worker.kv.fingerprint import fingerprint
from vernal_worker.kv.keys import block_keys

SCHEDULES = 1000
GROUP = 50


@dataclass
class Outcome:
    failures: float
    recomputed: float
    loaded: float


@pytest.fixture(scope="module")
def tally(request: pytest.FixtureRequest) -> Iterator[list[Outcome]]:
    """Says at the end what the schedules did."""
    outcomes: list[Outcome] = []
    yield outcomes
    with request.config.pluginmanager.getplugin("capturemanager").global_and_fixture_disabled():
        print(
            f"\n{len(outcomes)} schedules of faults: {sum(outcome.failures for outcome in outcomes):.0f} blocks failed "
            f"to load, {sum(outcome.loaded for outcome in outcomes):.0f} tokens loaded, "
            f"{sum(outcome.recomputed for outcome in outcomes):.0f} recomputed, no unverified byte"
        )


@pytest.mark.parametrize("first", range(0, SCHEDULES, GROUP))
def test_no_schedule_of_faults_spreads_a_wrong_byte(first: int, tmp_path: Path, tally: list[Outcome]) -> None:
    outcomes = [_schedule(seed, tmp_path / str(seed)) for seed in range(first, first + GROUP)]
    tally += outcomes
    assert sum(outcome.failures for outcome in outcomes) > 0, "no fault was injected: the test says nothing"
    assert sum(outcome.recomputed for outcome in outcomes) > 0
    assert sum(outcome.loaded for outcome in outcomes) > 0


def _schedule(seed: int, root: Path) -> Outcome:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lookup, "NEAR", seed % 3)  # lookups of prompts as short as these guess as with long ones
        return _drawn(seed, root)


def _drawn(seed: int, root: Path) -> Outcome:
    draw = random.Random(seed)
    prompts = _prompts(draw)
    fault = Fault(
        kind=draw.choice(list(Kind)),
        which=draw.choice(list(Which)),
        n=draw.randint(1, 4),
        probability=draw.random(),
        seed=seed,
        where=draw.choice(list(Where)),
        delay_seconds=0.03,
    )
    _damage(draw, root, prompts)
    engine = Engine(
        root,
        Faults(fault),
        blocks=draw.choice([24, 64]),
        slots=draw.choice([2, 3, 8]),
        depth=draw.choice([1, 2, 3]),
        recompute=draw.random() < 0.8,
        load_async=draw.random() < 0.5,
        load_timeout=0.015 if fault.kind is Kind.SLOW else GUARD_SECONDS,
        chunk=draw.choice([3, 4, 12, 64]),
        beside=draw.random() < 0.5,
        hashes=draw.random() < 0.5,
    )
    try:
        for _ in range(3):
            requests = engine.run(draw.choices(prompts, k=draw.randint(1, 6)))
            for request in requests:
                assert request.failed or request.answer == true_answer(request.tokens), f"seed {seed}: wrong answer"
            if draw.random() < 0.7:
                engine.reset_prefix_cache()
    finally:
        engine.close()
    assert engine.unverified == 0, f"seed {seed}: unverified bytes in the KV cache"
    _assert_store_is_sound(seed, root, prompts)
    counted = engine.counters.take()
    return Outcome(
        failures=sum(value for key, value in counted.items() if key.startswith("load_failures")),
        recomputed=counted.get("recomputed_tokens", 0),
        loaded=counted.get("loaded_tokens", 0),
    )


def _prompts(draw: random.Random) -> list[list[int]]:
    """Prompts that share prefixes of different lengths."""
    trunk = draw.choices(range(256), k=8 * BLOCK_TOKENS)
    return [
        trunk[: draw.randint(0, len(trunk))] + draw.choices(range(256), k=draw.randint(1, 3 * BLOCK_TOKENS))
        for _ in range(4)
    ]


def _damage(draw: random.Random, root: Path, prompts: list[list[int]]) -> None:
    """Fill the store with what other workers left, some of it damaged for good."""
    store = _store(root)
    for prompt in prompts:
        for key, value in zip(block_keys(prompt, BLOCK_TOKENS), true_blocks(prompt), strict=True):
            if draw.random() < 0.8:
                store.write(key, memoryview(bytearray(value)))
    paths = sorted(root.glob("*/*/*.kv"))
    for path in draw.sample(paths, min(len(paths), draw.randint(0, 2))):
        content = bytearray(path.read_bytes())
        content[draw.randrange(len(content))] ^= 1 << draw.randrange(8)
        path.write_bytes(content[: draw.choice([len(content), draw.randrange(len(content))])])


def _assert_store_is_sound(seed: int, root: Path, prompts: list[list[int]]) -> None:
    """Whatever the store gives out as verified must be what the prompt's tokens give, when computed alone."""
    store = _store(root)
    for prompt in prompts:
        for key, value in zip(block_keys(prompt, BLOCK_TOKENS), true_blocks(prompt), strict=True):
            into = bytearray(BLOCK_BYTES)
            try:
                store.read(key, memoryview(into))
            except BlockError:
                continue
            assert bytes(into) == value, f"seed {seed}: a wrong block in the store"


def _store(root: Path) -> BlockStore:
    return BlockStore(root, Layout(fingerprint(FACTS), BLOCK_TOKENS, BLOCK_BYTES))
