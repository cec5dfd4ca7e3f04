"""vLLM's configuration in the program's process: the engine's, and engine arguments told from it."""

import json
import os
from pathlib import Path
from typing import Any

import pytest
from programs import ENGINE_ARGS
from vernal_contract.config import CheckpointConfig
from vernal_worker.supervisor.engine_args import ArgumentError


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from models.tiny import make_tiny_model

    place = tmp_path_factory.mktemp("model")
    make_tiny_model(place)
    return place


def made(model: Path, **arguments: Any) -> Any:
    from vernal_worker.client import configuration, settings

    return configuration.make(settings.worker_config({"model": str(model), **arguments}, CheckpointConfig()))


def test_made_as_the_engine_makes_its_own(model: Path) -> None:
    """With the defaults of vLLM's server, and without what only that takes."""
    from vllm import AsyncEngineArgs
    from vllm.usage.usage_lib import UsageContext

    config = made(model, **ENGINE_ARGS, tool_call_parser="hermes", enable_auto_tool_choice=True)
    theirs = AsyncEngineArgs(model=str(model), **ENGINE_ARGS).create_engine_config(UsageContext.OPENAI_API_SERVER)
    assert config.scheduler_config == theirs.scheduler_config
    assert config.model_config.max_model_len == ENGINE_ARGS["max_model_len"]


def test_nothing_is_written_to_the_programs_output(model: Path, capfd: pytest.CaptureFixture[str]) -> None:
    made(model, max_model_len=512)
    assert capfd.readouterr().out == ""


def test_the_programs_environment_shapes_the_next_engine_as_it_did_this_one(
    model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import vernal_worker.client.async_llm  # noqa: F401  # what imports set is another thing
    from vernal_contract.variables import KEPT, TUNING

    def shaping() -> dict[str, str]:
        return {name: value for name, value in os.environ.items() if name in KEPT or name.startswith(TUNING)}

    monkeypatch.delenv("VLLM_WORKER_MULTIPROC_METHOD", raising=False)
    before = shaping()
    made(model)
    assert shaping() == before


def test_a_vllm_config_that_the_program_made_makes_no_other_engine(
    model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import cv2  # noqa: F401  # vLLM imports it, and `settings.environment` takes care of what it sets
    from vernal_contract.variables import KEPT, TUNING
    from vernal_worker.client import configuration
    from vllm import AsyncEngineArgs

    def shaping() -> dict[str, str]:
        found = configuration.environment()
        return {name: value for name, value in found.items() if name in KEPT or name.startswith(TUNING)}

    with monkeypatch.context() as patch:
        for name in (*configuration._IMPORTED, *configuration._ON_CPU, "TORCHINDUCTOR_CACHE_DIR", "LD_PRELOAD"):
            patch.delenv(name, raising=False)
        patch.setenv("LD_PRELOAD", "/usr/lib/libuser.so")
        before, whole = shaping(), dict(os.environ)
        try:
            AsyncEngineArgs(model=str(model)).create_engine_config()
            assert os.environ != whole, "vLLM sets variables"
            assert shaping() == before and before["LD_PRELOAD"] == "/usr/lib/libuser.so"
        finally:
            for name in os.environ.keys() - whole.keys():
                del os.environ[name]


def test_what_vllm_does_not_take(model: Path) -> None:
    with pytest.raises(ArgumentError, match="max-model-len"):
        made(model, max_model_len="long")
    with pytest.raises(ArgumentError, match="unrecognized arguments: --no-such-argument"):
        made(model, no_such_argument=1)
    with pytest.raises(ValueError, match="max_model_len"):
        made(model, max_model_len=10_000_000)


def test_options_of_vllms_server_are_the_programs(model: Path) -> None:
    assert made(model, enable_auto_tool_choice=True, tool_call_parser="hermes").model_config.max_model_len > 0


def test_what_the_engine_found_out_is_filled_in(model: Path) -> None:
    from vernal_worker.client import configuration
    from vernal_worker.engine import wire

    config = made(model, max_model_len=1024)
    facts = wire.Welcome(512, {"num_gpu_blocks": 7, "block_size": 32}, True, None, None, {})
    configuration.complete(config, facts)
    assert (config.model_config.max_model_len, config.cache_config.num_gpu_blocks) == (512, 7)
    assert config.cache_config.block_size == 32


@pytest.mark.parametrize(
    "arguments",
    [
        {},
        ENGINE_ARGS,
        {"tensor_parallel_size": 2, "enable_lora": True, "max_lora_rank": 8, "enable_prefix_caching": False},
        {"kv_cache_dtype": "fp8", "scheduling_policy": "priority", "seed": 7, "served_model_name": "name"},
        {
            "compilation_config": {"mode": 0, "splitting_ops": ["a::b"]},
            "override_generation_config": {"temperature": 0.5},
        },
    ],
)
def test_engine_arguments_are_told_from_a_vllm_config(model: Path, arguments: dict[str, Any]) -> None:
    from vernal_worker.client import configuration, derived
    from vllm import AsyncEngineArgs

    config = AsyncEngineArgs(model=str(model), **arguments).create_engine_config()
    found = derived.engine_args(config)
    assert found.keys() >= {"model", *arguments}
    assert found == json.loads(json.dumps(found))
    assert list(derived.differences(config, configuration.build(found))) == []


def test_a_vllm_config_that_no_arguments_give_is_refused_by_name(model: Path) -> None:
    from vernal_worker.client import derived
    from vllm import AsyncEngineArgs

    config = AsyncEngineArgs(model=str(model)).create_engine_config()
    config.scheduler_config.max_num_encoder_input_tokens = 7
    with pytest.raises(ArgumentError, match=r"scheduler_config\.max_num_encoder_input_tokens.*engine_args="):
        derived.engine_args(config)


def test_a_bucket_is_refused_by_name() -> None:
    from vernal_contract.config import CheckpointConfig, ObjectStoreConfig
    from vernal_worker.client.ways import _checkpoint

    bucket = CheckpointConfig(object_store=ObjectStoreConfig(url="s3://models/vernal"))
    with pytest.raises(ValueError, match=r"checkpoint\.object_store.*checkpoint_dir"):
        _checkpoint(bucket, None)
