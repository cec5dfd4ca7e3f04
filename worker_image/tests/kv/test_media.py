"""What of a multimodal item is in a block's key: all that the engine computes with, and nothing that a client says."""

from typing import Any

import pytest


def item(**data: Any) -> Any:
    from vllm.multimodal.inputs import MultiModalFieldElem, MultiModalKwargsItem, MultiModalSharedField

    shared = MultiModalSharedField(batch_size=1)
    return MultiModalKwargsItem({name: MultiModalFieldElem(data=value, field=shared) for name, value in data.items()})


def feature(data: Any, identifier: str = "image-0") -> Any:
    from vllm.multimodal.inputs import MultiModalFeatureSpec, PlaceholderRange

    return MultiModalFeatureSpec(data, "image", identifier, PlaceholderRange(2, 4))


@pytest.mark.integration
def test_items_differ_exactly_if_their_contents_do() -> None:
    import torch
    from vernal_worker.kv.media import content

    pixels = torch.arange(12, dtype=torch.float32).reshape(3, 4)
    different = [
        item(pixel_values=pixels),
        item(pixel_values=pixels.reshape(4, 3)),
        item(pixel_values=pixels.to(torch.bfloat16)),
        item(pixel_values=pixels + 1),
        item(other=pixels),
        item(pixel_values=[pixels, pixels]),
        item(pixel_values=[pixels], more=pixels),
        item(pixel_values=pixels, grid=[1, 2]),
        item(pixel_values=pixels, grid=[1, 3]),
    ]
    found = [content(each) for each in different]
    assert None not in found and len(set(found)) == len(different)
    assert content(item(pixel_values=pixels.clone())) == found[0]
    assert content(item(pixel_values=pixels.t().contiguous().t())) == found[0], "however it is laid out"


@pytest.mark.integration
def test_what_is_not_known_is_not_shared() -> None:
    import torch
    from vernal_worker.kv.media import content

    assert content(None) is None, "the engine has it in a cache"
    assert content(item(address=torch.tensor(5), monotonic_id=torch.tensor(6))) is None, "it is in shared memory"
    assert content(item(pixel_values=None)) is None
    assert content(item(pixel_values=torch.zeros(2), note=object())) is None


@pytest.mark.integration
def test_identifiers_say_nothing() -> None:
    """Without a processor cache they are counters, equal in every process, and a client may give its own."""
    from types import SimpleNamespace

    import torch
    from vernal_worker.kv import facts

    def salt(data: Any, identifier: str) -> Any:
        request = SimpleNamespace(
            request_id="r", prompt_token_ids=[1] * 8, lora_request=None, num_tokens=8, cache_salt=None,
            mm_features=[feature(data, identifier)],
        )  # fmt: skip
        return facts.prompt(request).salt()

    one, two = item(pixel_values=torch.zeros(4)), item(pixel_values=torch.ones(4))
    assert salt(one, "image-1") == salt(one, "mine") != salt(two, "image-2")
    assert salt(None, "image-0") is None


@pytest.mark.integration
def test_an_adapter_that_changes_in_its_place_is_not_shared_any_more(tmp_path: Any) -> None:
    import os
    from types import SimpleNamespace

    from vernal_worker.kv import facts
    from vllm.lora.request import LoRARequest

    (tmp_path / "adapter_config.json").write_text("{}")
    (tmp_path / "adapter_model.safetensors").write_bytes(b"x" * 100)
    request = SimpleNamespace(
        request_id="r", prompt_token_ids=[1] * 8, num_tokens=8, cache_salt=None, mm_features=[],
        lora_request=LoRARequest("changes", 77, str(tmp_path)),
    )  # fmt: skip
    before = facts.prompt(request)
    assert before.tokens is not None and before.salt().adapter
    (tmp_path / "adapter_model.safetensors").write_bytes(b"y" * 100)
    os.utime(tmp_path / "adapter_model.safetensors", ns=(1, 1))
    assert facts.prompt(request).tokens is None
    (tmp_path / "adapter_model.safetensors").unlink()
    request.lora_request = LoRARequest("none", 78, str(tmp_path))
    assert facts.prompt(request).tokens is None, "no weights"
