"""Whether a worker can be what it says: its identity inputs beside the configuration that its pod was made with.

What a worker finds out by itself (the image's software, digests of files, versions, the commit of a branch) nobody else
can check. All else in the inputs follows from the configuration; the worker's tests hold both sides together.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from vernal_contract.config import CheckpointPolicy, WeightsPlacement, WorkerConfig
from vernal_contract.engine_args import OWNED, EngineArgumentError, canonical, canonical_name
from vernal_contract.identity import IdentityInputs
from vernal_contract.variables import shapes

_ADDED = frozenset({"served_model_name", "kv_transfer_config"})
"""Engine arguments that a worker makes of other fields than engineArgs, besides those that a pool cannot set."""


def contradictions(inputs: IdentityInputs, config: WorkerConfig, *, signs: bool) -> list[str]:
    """Why a worker with this configuration cannot have these inputs, by field; none if it can.

    Args:
        signs: whether it was given a key to sign artifacts with.
    """
    return list(_contradictions(inputs, config, signs))


def _contradictions(inputs: IdentityInputs, config: WorkerConfig, signs: bool) -> Iterator[str]:
    model, checkpoint = config.model, config.checkpoint
    if checkpoint.policy is CheckpointPolicy.DISABLED:
        yield "checkpoint.policy is Disabled: it has no checkpoint"
    if inputs.model != model.name:
        yield f"model is {_shown(inputs.model)}, not {_shown(model.name)}"
    # What comes from a hub is a commit, whatever branch or tag the configuration names.
    if (model.path is not None or _is_commit(model.revision)) and inputs.model_revision != model.revision:
        yield f"modelRevision is {_shown(inputs.model_revision)}, not {_shown(model.revision)}"
    yield from _arguments(inputs.engine_args, config)
    for name, value in config.engine_env.items():
        if inputs.engine_env.get(name) != value:
            yield f"engineEnv.{name} is {_shown(inputs.engine_env.get(name))}, not {_shown(value)}"
    for name in inputs.engine_env.keys() - config.engine_env.keys():
        if not shapes(name) or name in config.secret_env:
            yield f"engineEnv.{_shown(name)} is none that its pod can have"
    if inputs.weights not in (checkpoint.weights, WeightsPlacement.IN_IMAGE):  # which it always is on a CPU
        yield f"weights is {_shown(inputs.weights)}, not {checkpoint.weights}"
    if signs and inputs.signing_key is None:
        yield "signingKey is not there, and the pool has one"
    if not signs and inputs.signing_key is not None:
        yield "signingKey is there, and the pool has none"


def _arguments(found: Mapping[str, Any], config: WorkerConfig) -> Iterator[str]:
    try:
        given = canonical(config.engine_args)
        # A worker of another release writes the same in other words.
        has = canonical({name: value for name, value in found.items() if canonical_name(name) not in OWNED})
    except EngineArgumentError as error:
        yield str(error)
        return
    for name, value in given.items():
        if has.get(name) != value:
            yield f"engineArgs.{name} is {_shown(has.get(name))}, not {_shown(value)}"
    for name in has.keys() - given.keys() - _ADDED:
        yield f"engineArgs.{_shown(name)} is none that the pool sets"
    model = config.model.path or config.model.name
    if found.get("model", model) != model:
        yield f"engineArgs.model is {_shown(found['model'])}, not {_shown(model)}"
    if "served_model_name" in has.keys() - given.keys() and has["served_model_name"] != [config.model.name]:
        yield f"engineArgs.served_model_name is {_shown(has['served_model_name'])}, not {_shown([config.model.name])}"
    if "kv_transfer_config" in has.keys() - given.keys() and config.kv_transfer is None:
        yield "engineArgs.kv_transfer_config is there, and the pool has no kvTransfer"


def _is_commit(revision: str | None) -> bool:
    return revision is not None and len(revision) == 40 and set(revision) <= set("0123456789abcdef")


def _shown(value: Any) -> str:
    """For people, of whatever length it was sent."""
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
