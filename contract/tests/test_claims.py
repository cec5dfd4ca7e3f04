"""What a worker cannot be, by the configuration that its pod was made with."""

from typing import Any

import msgspec
import pytest
from vernal_contract.claims import contradictions
from vernal_contract.config import CheckpointConfig, CheckpointPolicy, ModelConfig, WeightsPlacement, WorkerConfig
from vernal_contract.identity import IdentityInputs

COMMIT = "c" * 40
TOLD = WorkerConfig(
    pool="p", namespace="n", revision="r", model=ModelConfig(name="m", revision=COMMIT),
    engine_args={"max-model-len": 512}, engine_env={"VLLM_X": "1"}, secret_env=("HF_HOME",),
)  # fmt: skip
SAID = IdentityInputs(
    image_id="i", engine_args={"max_model_len": 512, "model": "m", "served_model_name": ["m"], "revision": COMMIT},
    engine_env={"VLLM_X": "1", "HOME": "/root"}, model="m", model_revision=COMMIT, weights="InImage", versions={},
)  # fmt: skip


def test_what_fits() -> None:
    assert contradictions(SAID, TOLD, signs=False) == []
    assert contradictions(msgspec.structs.replace(SAID, signing_key="k"), TOLD, signs=True) == []


@pytest.mark.parametrize(
    ("said", "field"),
    [
        ({"model": "n"}, "model"),
        ({"model_revision": "d" * 40}, "modelRevision"),
        ({"model_revision": None}, "modelRevision"),
        ({"engine_args": {}}, "engineArgs.max_model_len"),
        ({"engine_args": {"max_model_len": 1024}}, "engineArgs.max_model_len"),
        ({"engine_args": {"max_model_len": 512, "seed": 1}}, "engineArgs.'seed'"),
        ({"engine_args": {"max_model_len": 512, "model": "/elsewhere"}}, "engineArgs.model"),
        ({"engine_args": {"max_model_len": 512, "served_model_name": ["n"]}}, "engineArgs.served_model_name"),
        ({"engine_args": {"max_model_len": 512, "kv_transfer_config": {}}}, "engineArgs.kv_transfer_config"),
        ({"engine_env": {}}, "engineEnv.VLLM_X"),
        ({"engine_env": {"VLLM_X": "2"}}, "engineEnv.VLLM_X"),
        ({"engine_env": {"VLLM_X": "1", "MINE": "1"}}, "engineEnv.'MINE'"),
        ({"engine_env": {"VLLM_X": "1", "HF_HOME": "1"}}, "engineEnv.'HF_HOME'"),
        ({"weights": "Elsewhere"}, "weights"),
        ({"signing_key": "k"}, "signingKey"),
    ],
)
def test_each_field_that_follows_from_the_configuration(said: dict[str, Any], field: str) -> None:
    (line,) = contradictions(msgspec.structs.replace(SAID, **said), TOLD, signs=False)
    assert line.startswith(f"{field} is ")


def test_a_key_that_is_missing() -> None:
    assert contradictions(SAID, TOLD, signs=True) == ["signingKey is not there, and the pool has one"]


def test_a_pool_without_checkpoints() -> None:
    told = msgspec.structs.replace(TOLD, checkpoint=CheckpointConfig(policy=CheckpointPolicy.DISABLED))
    assert contradictions(SAID, told, signs=False) == ["checkpoint.policy is Disabled: it has no checkpoint"]


def test_what_only_the_worker_can_know_is_free() -> None:
    said = {"image_id": "j", "versions": {"vllm": "1"}, "contents": {"model": "d"}, "format_version": 2}
    assert contradictions(msgspec.structs.replace(SAID, **said), TOLD, signs=False) == []
    for revision in (None, "main"):
        told = msgspec.structs.replace(TOLD, model=ModelConfig(name="m", revision=revision))
        assert contradictions(SAID, told, signs=False) == [], "a commit that the hub names"


def test_weights_may_be_in_the_image_whatever_was_asked_for() -> None:
    told = msgspec.structs.replace(TOLD, checkpoint=CheckpointConfig(weights=WeightsPlacement.EXTERNAL))
    for weights in ("InImage", "External"):
        assert contradictions(msgspec.structs.replace(SAID, weights=weights), told, signs=False) == []


def test_however_they_are_written_arguments_are_compared_by_what_they_mean() -> None:
    arguments = {"hf_overrides": '{"a": 1}', "compilation-config.level": 0, "lora-modules": ['{"name": "a"}']}
    told = msgspec.structs.replace(TOLD, engine_args={**TOLD.engine_args, **arguments})
    there = {"hf_overrides": {"a": 1}, "compilation_config": {"level": 0}, "lora_modules": [{"name": "a"}]}
    of_another_release = {**there, "hf_overrides": '{"a": 1}'}
    for said in (there, of_another_release):
        claim = msgspec.structs.replace(SAID, engine_args={**SAID.engine_args, **said})
        assert contradictions(claim, told, signs=False) == []
    for name, value in (("hf_overrides", {"a": 2}), ("compilation_config", {}), ("lora_modules", ["b=c"])):
        claim = msgspec.structs.replace(SAID, engine_args={**SAID.engine_args, **there, name: value})
        (found,) = contradictions(claim, told, signs=False)
        assert found.startswith(f"engineArgs.{name} is ")


def test_what_is_said_of_it_is_short() -> None:
    (line,) = contradictions(msgspec.structs.replace(SAID, model="x" * 40_000), TOLD, signs=False)
    assert len(line) < 200
