"""From a pool's engine arguments to the options of `vllm serve`: pure, without vLLM."""

import json
import math
from collections.abc import Mapping
from typing import Any

from vernal_contract import engine_args as contract
from vernal_contract.config import KVTransferConfig, WorkerConfig

MOST_GPUS = 4
"""On how many GPUs an engine can be that is to be frozen."""

_SPREAD = ("tensor_parallel_size", "pipeline_parallel_size")
"""Arguments whose product is the number of GPUs of an engine."""

_CONNECTORS = {
    "VernalSharedStorageConnector": "vernal_worker.kv.connector",
    "FaultyVernalConnector": "vernal_worker.kv.faulty",
}
"""Where vLLM finds the connectors that it does not know itself."""


class ArgumentError(ValueError):
    """An engine argument cannot be used; the message names it."""


def canonical(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """`vernal_contract.engine_args.canonical`: equal arguments, however they are written, give equal checkpoints.

    Raises:
        ArgumentError: an argument is Vernal's own, is there twice, or is none.
    """
    try:
        return contract.canonical(arguments)
    except contract.EngineArgumentError as error:
        raise ArgumentError(str(error)) from error


def engine_arguments(config: WorkerConfig) -> dict[str, Any]:
    """All of vLLM's arguments that `config` asks for, in canonical form.

    Raises:
        ArgumentError: see `canonical`.
    """
    arguments = canonical(config.engine_args)
    if config.kv_transfer is not None:
        if "kv_transfer_config" in arguments:
            raise ArgumentError("engineArgs.kvTransferConfig cannot be set together with spec.kvTransfer")
        arguments["kv_transfer_config"] = _kv_transfer(config.kv_transfer)
    if config.model.path is None and config.model.revision is not None:
        arguments["revision"] = config.model.revision
    arguments.setdefault("served_model_name", [config.model.name])
    arguments["model"] = config.model.path or config.model.name
    return dict(sorted(arguments.items()))


def unfreezable(arguments: Mapping[str, Any], *, on_gpus: bool = True) -> str | None:
    """Why an engine with these arguments (canonical) cannot be frozen; None if it can."""
    transfer = arguments.get("kv_transfer_config")
    if isinstance(transfer, Mapping) and (connector := transfer.get("kv_connector")) not in (None, *_CONNECTORS):
        return (
            f"kv_transfer_config.kv_connector is {connector}: what it holds of other engines and devices cannot be"
            f" frozen; {next(iter(_CONNECTORS))} can, or set checkpoint.policy Disabled"
        )
    return _unfreezable_on_gpus(arguments) if on_gpus else None


def _unfreezable_on_gpus(arguments: Mapping[str, Any]) -> str | None:
    for name in ("data_parallel_size", "decode_context_parallel_size", "prefill_context_parallel_size"):
        if int(arguments.get(name, 1)) > 1:
            return f"engineArgs.{name} is {arguments[name]}: up to 1 can be frozen; set checkpoint.policy Disabled"
    if gpus_used(arguments) > MOST_GPUS:
        named = [f"engineArgs.{name} is {arguments[name]}" for name in _SPREAD if name in arguments]
        return f"{' and '.join(named)}: up to {MOST_GPUS} GPUs can be frozen; set checkpoint.policy Disabled"
    if arguments.get("distributed_executor_backend", "mp") not in ("mp", "uni"):
        return "engineArgs.distributed_executor_backend must be mp for a checkpoint"
    return None


def for_freezing(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of an engine that is to be frozen."""
    several = {"disable_custom_all_reduce": True}  # it shares memory between processes (CUDA IPC)
    return dict(sorted({**(several if several_gpus(arguments) else {}), **arguments}.items()))


def several_gpus(arguments: Mapping[str, Any]) -> bool:
    """Whether the engine has processes on more than one GPU."""
    return gpus_used(arguments) > 1


def gpus_used(arguments: Mapping[str, Any]) -> int:
    """On how many GPUs an engine with these arguments (canonical) computes."""
    return math.prod(int(arguments.get(name, 1)) for name in _SPREAD)


def options(arguments: Mapping[str, Any]) -> list[str]:
    """Command-line options that say the same: `{"max_model_len": 512, "enforce_eager": True}` gives
    `["--max-model-len", "512", "--enforce-eager"]`."""
    result: list[str] = []
    for name, value in arguments.items():
        flag = name.replace("_", "-")
        if value is True:
            result.append(f"--{flag}")
        elif value is False:
            result.append(f"--no-{flag}")
        elif isinstance(value, list | tuple):
            result += [f"--{flag}", *map(_text, value)]
        else:
            result += [f"--{flag}", _text(value)]
    return result


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, sort_keys=True)


def _kv_transfer(config: KVTransferConfig) -> dict[str, Any]:
    extra = dict(config.options)
    for name, value in (("shared_storage_path", config.path), ("max_bytes", config.max_bytes)):
        if value is not None:
            if name in extra:
                raise ArgumentError(
                    f"spec.kvTransfer.options.{name} cannot be set: another field of kvTransfer says it"
                )
            extra[name] = value
    result: dict[str, Any] = {
        "kv_connector": config.connector,
        "kv_role": config.role,
        "kv_load_failure_policy": config.load_failure_policy,
    }
    if (module := _CONNECTORS.get(config.connector)) is not None:
        result["kv_connector_module_path"] = module
    return result | ({"kv_connector_extra_config": extra} if extra else {})
