"""What vLLM computed for one image is saved for no other, though a client gave both the same name (`uuid`)."""

from types import SimpleNamespace
from typing import Any

import pytest

BLOCK, TOKENS = 4, 10


class Storage:
    """That has nothing yet."""

    def ask(self, keys: Any) -> Any:
        from vernal_worker.kv.lookup import NOTHING

        return NOTHING

    def doubt(self, lost: Any, behind: Any) -> None:
        raise AssertionError


def engine() -> tuple[Any, Any]:
    """vLLM's own prefix cache, and what hashes for it."""
    import torch
    from vllm.utils.hashing import sha256
    from vllm.v1.core.kv_cache_manager import KVCacheManager
    from vllm.v1.core.kv_cache_utils import get_request_block_hasher, init_none_hash
    from vllm.v1.kv_cache_interface import FullAttentionSpec, KVCacheConfig, KVCacheGroupSpec

    init_none_hash(sha256)
    spec = FullAttentionSpec(block_size=BLOCK, num_kv_heads=1, head_size=1, dtype=torch.float32)
    config = KVCacheConfig(num_blocks=32, kv_cache_tensors=[], kv_cache_groups=[KVCacheGroupSpec(["layer"], spec)])
    return KVCacheManager(config, 1024, BLOCK, BLOCK), get_request_block_hasher(BLOCK, sha256)


@pytest.mark.integration
def test_blocks_of_another_image_with_the_same_name_are_not_saved() -> None:
    import torch
    from vernal_worker.kv import facts
    from vernal_worker.kv.admission import Admission
    from vernal_worker.kv.counters import Counters
    from vernal_worker.kv.keys import block_keys
    from vernal_worker.kv.planner import Planner, Scheduled
    from vllm import SamplingParams
    from vllm.multimodal.inputs import (
        MultiModalFeatureSpec,
        MultiModalFieldElem,
        MultiModalKwargsItem,
        MultiModalSharedField,
        PlaceholderRange,
    )
    from vllm.v1.request import Request

    manager, hasher = engine()
    planner = Planner(BLOCK, Storage(), Counters(), Admission(30.0), loads=True, saves=True)
    computed_of: dict[int, str] = {}  # for which image the engine computed a block
    wrong: list[tuple[str, str]] = []
    for name in ("cat", "dog"):
        pixels = torch.full((4,), float(len(computed_of)))
        field = MultiModalFieldElem(data=pixels, field=MultiModalSharedField(batch_size=1))
        feature = MultiModalFeatureSpec(
            MultiModalKwargsItem({"pixel_values": field}), "image", "a client's own", PlaceholderRange(1, 2)
        )
        request = Request(
            name, [5, 9, 9, *range(10, 10 + TOKENS - 3)], SamplingParams(max_tokens=1), None,
            mm_features=[feature], block_hasher=hasher,
        )  # fmt: skip
        # As vLLM's scheduler does it with a connector.
        blocks, local, *_ = manager.get_computed_blocks(request)
        told = facts.prompt(request)
        salt = told.salt()
        keys = [] if salt is None else block_keys(told.tokens or [], BLOCK, salt)
        assert planner.match(name, lambda: keys, tokens=TOKENS, computed=local, may_load=True, load_async=True) == (  # noqa: B023
            0,
            False,
        )
        manager.allocate_slots(request, TOKENS - local, local, blocks)
        ids = list(manager.get_block_ids(name)[0])
        planner.allocate(name, ids, 0)
        for block_id in ids[local // BLOCK :]:
            computed_of[block_id] = name
        plan = planner.plan([Scheduled(name, local, TOKENS - local, ids, True)])
        wrong += [(name, computed_of[block.block_id]) for block in plan.saves if computed_of[block.block_id] != name]
    assert wrong == [], "(saved under the key of, computed for)"


def item(value: float) -> Any:
    import torch

    return {"pixel_values": SimpleNamespace(data=torch.full((4,), value))}


def request(name: str, *items: tuple[str, Any], tokens: int = 12, at: int = 0, **more: Any) -> Any:
    features = [
        SimpleNamespace(data=data, identifier=called, mm_position=SimpleNamespace(offset=at + 2 * number, length=2))
        for number, (called, data) in enumerate(items)
    ]
    return SimpleNamespace(
        request_id=name,
        prompt_token_ids=list(range(tokens)),
        lora_request=None,
        num_tokens=tokens,
        cache_salt=None,
        mm_features=features,
        **more,
    )


@pytest.fixture
def named(monkeypatch: pytest.MonkeyPatch) -> dict[str, str | None]:
    """What has been named so far: nothing."""
    from vernal_worker.kv import facts

    found: dict[str, str | None] = {}
    monkeypatch.setattr(facts, "_named", found)
    return found


CAT, DOG = 1.0, 2.0


@pytest.mark.integration
@pytest.mark.parametrize(
    "before",
    [
        pytest.param((("shm", None), ("X", CAT)), id="behind one that cannot be told"),
        pytest.param((("X", None),), id="of content that cannot be told"),
        pytest.param((("X", CAT),), id="of another image"),
    ],
)
def test_a_name_that_has_been_used_is_shared_no_more(named: Any, before: Any) -> None:
    from vernal_worker.kv import facts

    items = [(called, None if value is None else item(value)) for called, value in before]
    facts.prompt(request("first", *items)).salt()
    assert facts.prompt(request("second", ("X", item(DOG)))).salt() is None


@pytest.mark.integration
def test_items_of_a_prompt_that_is_not_shared_use_names_too(named: Any) -> None:
    from vernal_worker.kv import facts

    assert facts.prompt(request("first", ("X", item(CAT)), prompt_embeds=object())).tokens is None
    assert facts.prompt(request("second", ("X", item(DOG)))).salt() is None


@pytest.mark.integration
def test_names_in_use_are_forgotten_last(named: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from vernal_worker.kv import facts

    monkeypatch.setattr(facts, "_MOST_NAMED", 4)
    for number in range(8):
        assert facts.prompt(request("hot", ("X", item(CAT)))).salt() is not None
        facts.prompt(request("other", (f"other-{number}", item(number)))).salt()
    assert len(named) == 4
    assert facts.prompt(request("dog", ("X", item(DOG)))).salt() is None


@pytest.mark.integration
def test_blocks_are_not_saved_once_their_images_name_is_anothers_too(named: Any) -> None:
    """A long prompt's image comes in its second chunk. Meanwhile another request has the engine encode another one."""
    from vernal_worker.kv import facts
    from vernal_worker.kv.admission import Admission
    from vernal_worker.kv.counters import Counters
    from vernal_worker.kv.keys import block_keys
    from vernal_worker.kv.planner import Planner, Scheduled

    planner = Planner(BLOCK, Storage(), Counters(), Admission(30.0), loads=True, saves=True)

    def match(vllms: Any) -> None:
        told = facts.prompt(vllms)
        salt = told.salt()
        keys = [] if salt is None else block_keys(told.tokens or [], BLOCK, salt)
        planner.match(
            told.request_id,
            lambda: keys,
            tokens=told.length,
            computed=0,
            may_load=True,
            load_async=True,
            alone=told.alone,
        )

    match(request("cat", ("X", item(CAT)), at=8))
    planner.allocate("cat", [0, 1, 2], 0)
    first = planner.plan([Scheduled("cat", 0, 8, [0, 1, 2], True)])
    assert [block.block_id for block in first.saves] == [0, 1], "what has no image in it yet"
    match(request("dog", ("X", item(DOG)), tokens=5))
    planner.allocate("dog", [3, 4], 0)
    assert planner.plan([Scheduled("dog", 0, 5, [3, 4], True)]).saves == ()
    assert planner.plan([Scheduled("cat", 8, 4, [], False)]).saves == ()
