"""From what a program says to what the engine's keeper is told: the same configuration as a worker's."""

import dataclasses
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vernal_contract import config
from vernal_contract.reasons import Reason

from vernal_worker.client.host import EngineFailedError
from vernal_worker.store.errors import StoreError
from vernal_worker.store.store import Store
from vernal_worker.supervisor.engine_args import ArgumentError, canonical
from vernal_worker.supervisor.environment import TUNING

_LIBRARIES = "LD_LIBRARY_PATH"
_PLAIN = (str, int, float, bool)


def worker_config(arguments: Mapping[str, Any], checkpoint: config.CheckpointConfig) -> config.WorkerConfig:
    """The configuration for engine arguments in the spelling of vLLM's AsyncEngineArgs.

    A model that is not a directory is fetched from the Hugging Face hub first, by this process: the engine has no
    network.

    Raises:
        ArgumentError: an argument is not there, or not possible.
        Exception: what huggingface_hub raises when the model cannot be fetched.
    """
    rest = dict(arguments)
    model, revision = rest.pop("model", None), rest.pop("revision", None)
    if not isinstance(model, str):
        raise ArgumentError("model is missing")
    return config.WorkerConfig(
        pool="library",
        namespace="",
        revision="",
        model=config.ModelConfig(name=model, revision=revision, path=_directory(model, revision)),
        engine_args=canonical(rest),
        checkpoint=checkpoint,
    )


def frozen_config(checkpoint: config.CheckpointConfig) -> config.WorkerConfig:
    """The configuration of the newest checkpoint in the store.

    Raises:
        EngineFailedError: there is none.
    """
    store = Path(checkpoint.store_path)
    try:
        artifacts = Store(store).artifacts()
    except StoreError as error:
        raise EngineFailedError(error.reason, error.message) from error
    if not artifacts:
        raise EngineFailedError(Reason.NO_ARTIFACT, f"there is no checkpoint in {store}")
    inputs = artifacts[0].manifest.identity_inputs
    arguments = dict(inputs.engine_args)
    return config.WorkerConfig(
        pool="library",
        namespace="",
        revision="",
        model=config.ModelConfig(name=inputs.model, revision=inputs.model_revision, path=arguments.pop("model")),
        engine_args=arguments,
        engine_env=inputs.engine_env,
        checkpoint=checkpoint,
    )


def environment(worker: config.WorkerConfig) -> dict[str, str]:
    """The keeper's. For a checkpoint that is to be thawed, what shapes an engine comes from it alone."""
    variables = dict(os.environ)
    if path := variables.get(_LIBRARIES):
        # cv2 puts its directory in front whenever it is imported: twice in a program whose parent did so, too.
        variables[_LIBRARIES] = ":".join(dict.fromkeys(filter(None, path.split(":"))))
    if not worker.engine_env:
        return variables
    return {name: value for name, value in variables.items() if not name.startswith(TUNING)}


def vllm_arguments(worker: config.WorkerConfig) -> dict[str, Any]:
    """Arguments of AsyncEngineArgs that say the same as `worker`."""
    arguments = {"served_model_name": worker.model.name, **worker.engine_args}
    return {**arguments, "model": worker.model.path or worker.model.name}


def plain(engine_args: Any) -> dict[str, Any]:
    """The arguments in an AsyncEngineArgs that are not the defaults.

    Raises:
        ArgumentError: one has a value that has no plain form.
    """
    defaults = type(engine_args)(model=engine_args.model)
    result = {}
    for field in dataclasses.fields(engine_args):
        value = getattr(engine_args, field.name)
        if field.name == "model" or value != getattr(defaults, field.name):
            result[field.name] = _plain(field.name, value)
    return result


def _plain(name: str, value: Any) -> Any:
    if value is None or isinstance(value, _PLAIN):
        return value
    if isinstance(value, list | tuple):
        return [_plain(name, item) for item in value]
    if isinstance(value, Mapping):
        return {str(key): _plain(name, item) for key, item in value.items()}
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        defaults = type(value)()
        fields = [f.name for f in dataclasses.fields(value) if f.init]
        return {f: _plain(name, getattr(value, f)) for f in fields if getattr(value, f) != getattr(defaults, f)}
    raise ArgumentError(f"{name} is a {type(value).__name__}: give it in plain values, as on vLLM's command line")


def _directory(model: str, revision: str | None) -> str:
    if Path(model).is_dir():
        return str(Path(model).resolve())
    from huggingface_hub import snapshot_download

    return snapshot_download(model, revision=revision)
