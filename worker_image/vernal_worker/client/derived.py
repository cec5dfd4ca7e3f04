"""Engine arguments, told from the VllmConfig that vLLM made of them."""

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

from vllm.engine.arg_utils import AsyncEngineArgs

from vernal_worker.client import arguments, configuration
from vernal_worker.engine import wire
from vernal_worker.supervisor.engine_args import ArgumentError

Path = tuple[str, ...]

_ROUNDS = 6
_SHALLOW = 2
_NAMED = 5
_RENAMED = {
    ("cache_config", "cache_dtype"): "kv_cache_dtype",
    ("lora_config", "target_modules"): "lora_target_modules",
    ("model_config", "multimodal_config", "limit_per_prompt"): "limit_mm_per_prompt",
    ("scheduler_config", "policy"): "scheduling_policy",
}
_BY_FIELD = frozenset({"attention_config", "compilation_config", "kernel_config", "mamba_config"})
"""Arguments that vLLM takes as dictionaries, and adds to."""

_CHANGING = frozenset({"instance_id", "engine_id", "data_parallel_master_port", "_data_parallel_master_port_list"})
"""Fields that no two VllmConfigs have in common."""


def engine_args(config: Any) -> dict[str, Any]:
    """Plain engine arguments that vLLM makes an equal VllmConfig of. Takes seconds.

    Raises:
        ArgumentError: there are none; the message names settings that no argument gives.
    """
    found: dict[str, Any] = {"model": config.model_config.model}
    for _ in range(_ROUNDS):
        different = dict(differences(config, configuration.build(found)))
        if not different:
            return found
        # The model's first, and what is deep inside last: it may follow from the rest.
        models = {path: value for path, value in different.items() if path[0] == "model_config"}
        shallow = {path: value for path, value in different.items() if len(path) <= _SHALLOW}
        for some in (models, shallow, different):
            if more := _arguments(config, some, found):
                found |= more
                break
        else:
            break
    names = [".".join(path) for path in different]
    raise ArgumentError(
        f"from_vllm_config: no engine argument gives {', '.join(names[:_NAMED])}"
        f"{f' and {len(names) - _NAMED} more' if len(names) > _NAMED else ''}: give engine_args="
    )


def differences(given: Any, made: Any, path: Path = ()) -> Iterator[tuple[Path, Any]]:
    """Paths of fields in which two VllmConfigs differ, and the first one's values. What an engine finds out when it
    starts does not count."""
    for field in dataclasses.fields(given):
        if field.name in _CHANGING or (path == ("cache_config",) and field.name in wire.FOUND_OUT):
            continue
        mine, its = getattr(given, field.name), getattr(made, field.name)
        here = (*path, field.name)
        if dataclasses.is_dataclass(mine) and type(mine) is type(its):
            yield from differences(mine, its, here)
        elif mine != its:
            yield here, mine


def _arguments(config: Any, different: Mapping[Path, Any], found: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments that are not in `found` yet and give what differs."""
    known = {field.name for field in dataclasses.fields(AsyncEngineArgs)}
    result: dict[str, Any] = {}
    for path, value in different.items():
        section, *rest = path
        if section in _BY_FIELD and rest:
            field = getattr(getattr(config, section), rest[0])
            result.setdefault(section, dict(found.get(section, {})))[rest[0]] = field
        elif section in known:
            result[section] = getattr(config, section)
        elif path == ("lora_config",):
            result["enable_lora"] = True
        elif (name := _RENAMED.get(path, path[-1])) in known:
            result[name] = value
    plain = arguments.plain_values(result)
    return {name: value for name, value in plain.items() if name not in found or found[name] != value}
