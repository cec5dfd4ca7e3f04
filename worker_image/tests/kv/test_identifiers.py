"""What vLLM computed for one image is saved for no other, though a client gave both the same name (`uuid`)."""

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
