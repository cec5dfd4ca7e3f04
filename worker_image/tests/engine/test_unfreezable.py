"""Which loaded engines are never frozen, and what is said of them."""

from typing import Any, get_args

import pytest
from vernal_worker.engine.unfreezable import POOLING_TASKS, loses_scales, unchecked


@pytest.mark.parametrize(
    ("tasks", "named"),
    [
        (("transcription",), "transcription"),
        (("transcription", "realtime"), "transcription, realtime"),
        (("plugin",), "plugin"),
        ((), "none"),
    ],
)
def test_what_cannot_be_asked_with_token_ids_cannot_be_checked(tasks: tuple[str, ...], named: str) -> None:
    assert unchecked(tasks, encoder_decoder=False) == f"its answers cannot be checked: its tasks are {named}"


@pytest.mark.parametrize("tasks", [("generate", "transcription"), *((task, "plugin") for task in POOLING_TASKS)])
def test_one_task_that_can_be_asked_is_enough(tasks: tuple[str, ...]) -> None:
    assert unchecked(tasks, encoder_decoder=False) is None


def test_sound_that_is_a_prompt_of_its_own_can_be_asked_with() -> None:
    assert unchecked(("transcription",), encoder_decoder=True) is None
    assert unchecked(("realtime",), encoder_decoder=True) is not None


def test_every_task_of_vllm_is_known() -> None:
    from vllm.tasks import PoolingTask

    assert set(get_args(PoolingTask)) == {*POOLING_TASKS, "plugin"}


COMPRESSED = {"quant_method": "compressed-tensors", "kv_cache_scheme": {"num_bits": 8, "type": "float"}}
MODELOPT = {"producer": {"name": "modelopt"}, "quantization": {"quant_algo": "FP8", "kv_cache_quant_algo": "FP8"}}
PLAIN = {"quant_method": "fp8", "kv_cache_scheme": None}


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"calculated": True}, "calculate_kv_scales"),
        ({"quantization": [None, COMPRESSED]}, "kv_cache_scheme"),
        ({"quantization": [MODELOPT]}, "kv_cache_quant_algo"),
        ({"quantization": [PLAIN]}, None),
        ({"quantization": []}, None),
        ({"calculated": True, "resets": False}, None),
        ({"calculated": True, "cache_dtype": "auto"}, None),
    ],
)
def test_scales_that_waking_up_would_lose_are_named(fields: dict[str, Any], named: str | None) -> None:
    given = {"cache_dtype": "fp8_e4m3", "resets": True, "calculated": False, "quantization": [], **fields}
    problem = loses_scales(**given)
    assert problem is None if named is None else named in (problem or "")
