"""What a worker gathers fits what it was told: the operator believes it by `vernal_contract.claims`."""

from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace
from vernal_contract import names
from vernal_contract.claims import contradictions
from vernal_contract.config import (
    CheckpointConfig,
    KVTransferConfig,
    ModelConfig,
    WeightsPlacement,
    WorkerConfig,
    encode,
)
from vernal_worker.supervisor import identity
from vernal_worker.supervisor.context import read_settings


@pytest.fixture
def model(tmp_path: Path) -> Path:
    (tmp_path / "config.json").write_text("{}")
    return tmp_path


SIGNED = {names.ENV_SIGNING_KEY: "key"}
CLAIMS: dict[str, tuple[dict[str, str], dict[str, Any]]] = {
    "nothing": ({}, {}),
    "arguments in any spelling": ({}, {"engine_args": {"max-model-len": 512, "enforceEager": True, "dtype": None}}),
    "JSON in text": ({}, {"engine_args": {"hf_overrides": '{"a": 1}', "compilation_config.level": 0}}),
    "a name to serve": ({}, {"engine_args": {"served_model_name": ["other"]}}),
    "variables": ({"VLLM_LOGGING_LEVEL": "DEBUG", "HOME": "/root", "X": "1"}, {"engine_env": {"VLLM_USE_V1": "1"}}),
    "its own instead of the container's": ({"NCCL_DEBUG": "WARN"}, {"engine_env": {"NCCL_DEBUG": "INFO", "MINE": "1"}}),
    "secrets": ({"MY_TOKEN": "t", "HF_TOKEN": "t"}, {"secret_env": ("MY_TOKEN", "HF_TOKEN")}),
    "a shared KV cache": ({}, {"kv_transfer": KVTransferConfig(path="/kv")}),
    "two GPUs": ({}, {"engine_args": {"tensor_parallel_size": 2}}),
    "weights beside the image": ({}, {"checkpoint": CheckpointConfig(weights=WeightsPlacement.EXTERNAL)}),
    "a key": (SIGNED, {}),
}


@pytest.mark.parametrize("claim", CLAIMS)
def test_nothing_that_a_worker_gathers_contradicts_what_it_was_told(model: Path, claim: str) -> None:
    """Else the operator would not believe it, and its pool would have no checkpoint."""
    variables, fields = CLAIMS[claim]
    told = WorkerConfig(
        pool="p", namespace="n", revision="r", model=ModelConfig(name="m", revision="v1", path=str(model)), **fields
    )
    settings = read_settings({names.ENV_CONFIG: encode(told), **variables})
    for weights in (WeightsPlacement.IN_IMAGE, told.checkpoint.weights):
        found = identity.gather(settings, weights)
        assert contradictions(found, told, signs=names.ENV_SIGNING_KEY in variables) == []


def test_nothing_that_a_worker_gathers_of_a_hub_contradicts_what_it_was_told() -> None:
    for revision, commit in ((None, "a" * 40), ("v1", "a" * 40), ("b" * 40, "b" * 40)):
        told = WorkerConfig(pool="p", namespace="n", revision="r", model=ModelConfig(name="o/m", revision=revision))
        settings = read_settings({names.ENV_CONFIG: encode(told)})
        pinned = replace(settings, arguments={**settings.arguments, "revision": commit})  # as `hub.pin`
        assert contradictions(identity.gather(pinned), told, signs=False) == []
