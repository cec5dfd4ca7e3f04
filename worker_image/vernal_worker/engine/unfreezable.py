"""Why an engine that is loaded cannot be frozen: what its arguments do not say. Pure, without vLLM."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

POOLING_TASKS = ("embed", "classify", "token_embed", "token_classify", "embed&token_classify")
"""Of vLLM's tasks those, beside `generate`, that can be asked with token ids, and whose values tell one model from
another. `plugin` wants data in a form of its own, `realtime` a stream of sound."""

TRANSCRIPTION = "transcription"


def unchecked(tasks: Sequence[str], *, encoder_decoder: bool) -> str | None:
    """Why nobody could say whether an engine with these tasks answers after a thaw as it did before.

    `encoder_decoder`: what a model hears is a prompt of its own, beside the tokens that it goes on with, as with
    Whisper; elsewhere each model has its own way to write sound into its prompt.
    """
    if {"generate", *POOLING_TASKS} & set(tasks) or (encoder_decoder and TRANSCRIPTION in tasks):
        return None
    return f"its answers cannot be checked: its tasks are {', '.join(tasks) or 'none'}"


def loses_scales(cache_dtype: str, *, resets: bool, calculated: bool, quantization: Iterable[Any]) -> str | None:
    """Why an engine's KV cache would be read with other scales after it woke up.

    vLLM 0.26 sets them to 1 then (`GPUModelRunner.init_fp8_kv_scales`); later versions keep them.

    Args:
        resets: whether this vLLM does so.
        calculated: `calculate_kv_scales`.
        quantization: configurations of the model's quantization; those with scales for the KV cache say so in a field
            such as `kv_cache_scheme` or `kv_cache_quant_algo`.
    """
    if not (resets and cache_dtype.startswith("fp8")):
        return None
    if calculated:
        why = "calculate_kv_scales is set"
    elif (field := next(filter(None, map(_kv_field, quantization)), None)) is not None:
        why = f"the model's quantization has {field}"
    else:
        return None
    return (
        f"the KV cache is {cache_dtype} with scales ({why}), which this version of vLLM sets to 1 when an engine"
        " wakes up; vLLM 0.32 keeps them"
    )


def _kv_field(config: Any) -> str | None:
    """The first field about the KV cache that says something."""
    if not isinstance(config, Mapping):
        return None
    for name, value in config.items():
        if str(name).startswith("kv_cache") and value:
            return str(name)
        if (inner := _kv_field(value)) is not None:
            return inner
    return None
