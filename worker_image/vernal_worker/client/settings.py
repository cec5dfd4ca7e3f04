"""From what a program says to what the engine's keeper is told: the same configuration as a worker's."""

import os
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from vernal_contract import config
from vernal_contract.reasons import Reason
from vernal_contract.variables import TUNING

from vernal_worker.client import arguments as engine_arguments
from vernal_worker.client.host import EngineFailedError
from vernal_worker.client.messages import How
from vernal_worker.store.errors import StoreError, Touch
from vernal_worker.store.store import STORAGE_SECONDS, Store
from vernal_worker.supervisor.engine_args import ArgumentError, canonical

_LIBRARIES = "LD_LIBRARY_PATH"

ENV_START = "VERNAL_START"
"""How to get an engine, where a program does not say: a value of `How`."""

ENV_CHECKPOINT_DIR = "VERNAL_CHECKPOINT_DIR"
"""The directory of checkpoints, where a program does not name one."""


def choice(start: How | str | None, directory: str | os.PathLike[str] | None) -> tuple[How, Path | None]:
    """How to get an engine, and where its checkpoints are: what the program says, else what its environment says, else
    `auto`. Without a directory, `auto` means `cold`.

    Raises:
        ValueError: there is no such way, or thawing has no directory.
    """
    said, name = (start, "start") if start is not None else (os.environ.get(ENV_START) or How.AUTO, ENV_START)
    try:
        how = How(said)
    except ValueError:
        raise ValueError(f"{name} is {said!r}: it must be one of {', '.join(How)}") from None
    place = directory if directory is not None else os.environ.get(ENV_CHECKPOINT_DIR) or None
    if place is None and how is How.THAW:
        raise ValueError(f"{name}={how.value!r} needs checkpoint_dir or {ENV_CHECKPOINT_DIR}")
    if place is None and how is How.AUTO:
        how = How.COLD
    return how, Path(place) if place is not None else None


def worker_config(arguments: Mapping[str, Any], checkpoint: config.CheckpointConfig) -> config.WorkerConfig:
    """The configuration for engine arguments in the spelling of vLLM's AsyncEngineArgs.

    A model that is not a directory is fetched from the Hugging Face hub first, by this process: the engine has no
    network.

    Raises:
        ArgumentError: an argument is missing, not possible, has no plain form, or needs a network.
        Exception: what huggingface_hub raises when the model cannot be fetched.
    """
    rest = engine_arguments.plain_values(arguments)
    model, revision = rest.pop("model", None), rest.pop("revision", None)
    if not isinstance(model, str):
        raise ArgumentError("model is missing")
    given = canonical(rest)
    engine_arguments.refuse_networked(given)
    return config.WorkerConfig(
        pool="library",
        namespace="",
        revision="",
        model=config.ModelConfig(name=model, revision=revision, path=_directory(model, revision)),
        engine_args=given,
        checkpoint=checkpoint,
    )


def frozen_config(checkpoint: config.CheckpointConfig) -> config.WorkerConfig:
    """The configuration of the newest checkpoint in the store.

    Raises:
        EngineFailedError: there is none, or the storage does not answer.
    """
    store = Path(checkpoint.store_path)
    patient = Touch(STORAGE_SECONDS)
    try:
        if not patient("find", store.is_dir):
            raise EngineFailedError(Reason.NO_ARTIFACT, f"there is no directory {store}")
        artifacts = patient("find", Store(store).artifacts)
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


def make_directory(path: Path) -> None:
    """Of checkpoints; for its owner alone, if it is not there yet.

    Raises:
        StoreError: it cannot be made, or the storage does not answer.
    """
    Touch(STORAGE_SECONDS)("make", partial(path.mkdir, mode=0o700, parents=True, exist_ok=True))


def environment(worker: config.WorkerConfig, program: Mapping[str, str]) -> dict[str, str]:
    """The keeper's, of the program's variables. For a checkpoint that is to be thawed, what shapes an engine comes from
    it alone."""
    variables = dict(program)
    if path := variables.get(_LIBRARIES):
        # cv2 puts its directory in front whenever it is imported: twice in a program whose parent did so, too.
        variables[_LIBRARIES] = ":".join(dict.fromkeys(filter(None, path.split(":"))))
    if not worker.engine_env:
        return variables
    return {name: value for name, value in variables.items() if not name.startswith(TUNING)}


def _directory(model: str, revision: str | None) -> str:
    if Path(model).is_dir():
        return str(Path(model).resolve())
    from huggingface_hub import snapshot_download

    return snapshot_download(model, revision=revision)
