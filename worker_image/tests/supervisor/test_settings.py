"""What a worker is told, and what of it the engine gets to see."""

import json
from pathlib import Path
from typing import Any

import pytest
from vernal_contract import names
from vernal_contract.config import (
    CheckpointConfig,
    CheckpointPolicy,
    KVTransferConfig,
    ModelConfig,
    ObjectStoreConfig,
    Verify,
    WorkerConfig,
    encode,
)
from vernal_contract.engine_args import canonical_name
from vernal_worker.bucket.credentials import KEYS
from vernal_worker.checkpoint.gpu import Gpus
from vernal_worker.supervisor import engine_args, environment
from vernal_worker.supervisor.context import ConfigError, Settings, read_settings

DISABLED = CheckpointPolicy.DISABLED


def config(**fields: Any) -> WorkerConfig:
    return WorkerConfig(**{"pool": "p", "namespace": "n", "revision": "r", "model": ModelConfig(name="m/x"), **fields})


def settings(variables: dict[str, str] | None = None, **fields: Any) -> Settings:
    return read_settings({"PATH": "/bin", names.ENV_CONFIG: encode(config(**fields)), **(variables or {})})


# --- engine arguments ---


def test_spelling_does_not_matter() -> None:
    spellings = [{"maxModelLen": 512}, {"max_model_len": 512}, {"max-model-len": 512}]
    assert {json.dumps(engine_args.canonical(each)) for each in spellings} == {'{"max_model_len": 512}'}


def test_order_and_none_do_not_matter() -> None:
    assert list(engine_args.canonical({"b": 1, "a": 2, "c": None}).items()) == [("a", 2), ("b", 1)]


@pytest.mark.parametrize("name", ["port", "apiKey", "worker-extension-cls", "sslKeyfile", "model"])
def test_arguments_that_are_ours_are_refused_by_name(name: str) -> None:
    with pytest.raises(ConfigError, match=f"engineArgs.{name}"):
        settings(engine_args={name: "x"})


def test_an_argument_in_two_spellings_is_refused() -> None:
    with pytest.raises(ConfigError, match="twice"):
        settings(engine_args={"maxModelLen": 1, "max_model_len": 2})


def test_options() -> None:
    arguments = {"a": True, "b": False, "c_d": 5, "e": [1, "x"], "f": {"k": 1}, "g": "text", "h": 0.5}
    assert engine_args.options(arguments) == [
        *("--a", "--no-b", "--c-d", "5", "--e", "1", "x", "--f", '{"k": 1}', "--g", "text", "--h", "0.5")
    ]


TEXTS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "an object": ({"speculativeConfig": ' {"model":"/draft"}'}, {"speculative_config": {"model": "/draft"}}),
    "an item": ({"loraModules": ['{"name":"a","path":"/a"}']}, {"lora_modules": [{"name": "a", "path": "/a"}]}),
    "a list, which options would take apart": ({"allowedOrigins": '["*"]'}, {"allowed_origins": [["*"]]}),
    "a template": ({"chatTemplate": "{{ messages }}"}, {"chat_template": "{{ messages }}"}),
    "half an object": ({"x": ['{"a":', "[1"]}, {"x": ['{"a":', "[1"]}),
    "dotted": ({"kvTransferConfig.kv_connector": "C"}, {"kv_transfer_config": {"kv_connector": "C"}}),
    "dotted, several and deep": (
        {"--speculative-config.model": "/d", "speculative_config.a.B": 2, "speculative_config.a.c": None},
        {"speculative_config": {"model": "/d", "a": {"B": 2}}},
    ),
    "dotted, as vLLM reads them": (
        {"x.a": "3", "x.b": '{"c":1}', "x.d": "80g", "x.e": "1.5K", "x.f": "2M", "x.g": "true", "x.h": "text"},
        {"x": {"a": 3, "b": {"c": 1}, "d": 80 * 10**9, "e": "1.5K", "f": 2 << 20, "g": True, "h": "text"}},
    ),
    "dotted, one after the other": ({"x.a+": "b,c", "x.a": ["a"]}, {"x": {"a": ["a", "b", "c"]}}),
}
"""Arguments, and what they are."""


@pytest.mark.parametrize(("given", "found"), TEXTS.values(), ids=TEXTS)
def test_what_is_written_as_text_is_what_it_says(given: dict[str, Any], found: dict[str, Any]) -> None:
    assert engine_args.canonical(given) == found


def _read_by_vllm(arguments: list[str], parser: Any) -> dict[str, Any]:
    return {name: value for name, value in vars(parser.parse_args(arguments)).items() if value is not None}


@pytest.mark.parametrize("name", [name for name in TEXTS if name != "half an object"])
def test_vllm_reads_the_same_from_the_options(name: str) -> None:
    """Compared with what its parser makes of the arguments as they were given, for options that take JSON."""
    from vllm.utils.argparse_utils import FlexibleArgumentParser

    parser = FlexibleArgumentParser()
    for option in ("speculative-config", "kv-transfer-config", "allowed-origins", "x"):
        parser.add_argument(f"--{option}", type=json.loads)
    parser.add_argument("--lora-modules", type=json.loads, nargs="*")
    parser.add_argument("--chat-template")
    given, _ = TEXTS[name]
    raw: list[str] = []
    for argument, value in given.items():
        if value is not None:
            root, dot, rest = argument.partition(".")
            flag = f"--{canonical_name(root)}{dot}{rest}"
            raw += [flag, *(map(str, value) if isinstance(value, list) and not dot else [_as_text(value)])]
    if "x.a+" in given:  # vLLM appends in the order of the command line, which a mapping has not
        raw = ["--x.a", '["a"]', "--x.a+", "b,c"]
    assert _read_by_vllm(engine_args.options(engine_args.canonical(given)), parser) == _read_by_vllm(raw, parser)


def _as_text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"model.x": "y"}, r"engineArgs\.model\.x cannot be set"),
        ({"api_key.0+": "sesame"}, r"engineArgs\.api_key\.0\+ cannot be set"),
        ({"port=1": True}, r"engineArgs\.port=1 is no name"),
        ({"x": 1, "x.y": 2}, r"engineArgs\.x\.y is there twice"),
        ({"x.y": 1, "x.y.z": 2}, r"engineArgs\.x\.y\.z is there twice"),
        ({"kvX.a": 1, "kv_x.a": 2}, r"engineArgs\.kv\w+\.a is there twice"),
        ({"x.a": 1, "x.a+": "b"}, r"engineArgs\.x\.a\+ is there twice"),
        ({"kvX.a": 1, "kv_x": {}}, r"engineArgs\.kv_x is there twice"),
        ({"x+": 1}, r"engineArgs\.x\+ is no name"),
        ({"x..y": 1}, r"engineArgs\.x\.\.y is no name"),
        ({"lora_modules": ["a=/a", "--api-key=x"]}, r"engineArgs\.lora_modules.* begins with --"),
        ({"x": "[" * 100_000}, r"engineArgs\.x is nested too deeply"),
    ],
)
def test_ways_around_the_names_are_refused(arguments: dict[str, Any], named: str) -> None:
    with pytest.raises(ConfigError, match=named):
        settings(engine_args=arguments)


def test_the_model_is_its_path_and_served_under_its_name(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    mounted = settings(model=ModelConfig(name="m/x", revision="7", path=str(tmp_path))).arguments
    assert mounted == {"model": str(tmp_path), "served_model_name": ["m/x"]}
    fetched = settings(model=ModelConfig(name="m/x", revision="7")).arguments
    assert fetched == {"model": "m/x", "revision": "7", "served_model_name": ["m/x"]}


def test_kv_transfer() -> None:
    kv = KVTransferConfig(path="/kv", max_bytes=5, options={"threads": 2})
    found = settings(kv_transfer=kv).arguments
    assert found["kv_transfer_config"] == {
        "kv_connector": "VernalSharedStorageConnector",
        "kv_connector_module_path": "vernal_worker.kv.connector",
        "kv_role": "kv_both",
        "kv_load_failure_policy": "recompute",
        "kv_connector_extra_config": {"shared_storage_path": "/kv", "max_bytes": 5, "threads": 2},
    }
    [flag, text] = engine_args.options({"kv_transfer_config": found["kv_transfer_config"]})
    assert flag == "--kv-transfer-config" and json.loads(text) == found["kv_transfer_config"]
    other = settings(kv_transfer=KVTransferConfig(connector="C", role="kv_consumer", load_failure_policy="fail"))
    assert other.arguments["kv_transfer_config"] == {
        "kv_connector": "C",
        "kv_role": "kv_consumer",
        "kv_load_failure_policy": "fail",
    }
    with pytest.raises(ConfigError, match="kvTransferConfig"):
        settings(kv_transfer=kv, engine_args={"kvTransferConfig": {}})
    twice = KVTransferConfig(path="/kv", options={"shared_storage_path": "/other"})
    with pytest.raises(ConfigError, match=r"spec\.kvTransfer\.options\.shared_storage_path"):
        settings(kv_transfer=twice)


# --- environment ---


def test_the_engine_sees_neither_the_pod_nor_secrets() -> None:
    told = settings(
        {
            "VERNAL_POD_NAME": "pod-1",
            "VERNAL_POD_IP": "10.9.8.7",
            "HOSTNAME": "pod-1",
            "KUBERNETES_SERVICE_HOST": "10.0.0.1",
            "SOME_SERVICE_PORT": "tcp://10.0.0.2",
            "HF_TOKEN": "hf_secret",
            "VLLM_API_KEY": "sesame",
            "MY_SECRET": "hush",
        },
        secret_env=("VLLM_API_KEY", "MY_SECRET"),
    )
    seen = json.dumps(dict(told.environment))
    for hidden in ("pod-1", "10.9.8.7", "10.0.0", "hf_secret", "sesame", "hush"):
        assert hidden not in seen
    assert told.secrets == {"VLLM_API_KEY": "sesame", "MY_SECRET": "hush"}
    assert told.pod.name == "pod-1" and told.pod.ip == "10.9.8.7"


def test_what_shapes_the_engine_counts_towards_the_identity() -> None:
    told = settings({"VLLM_X": "1", "OMP_NUM_THREADS": "4", "LANG": "C"}, engine_env={"MINE": "2"})
    assert told.shaping == {"LANG": "C", "MINE": "2", "OMP_NUM_THREADS": "4", "PATH": "/bin", "VLLM_X": "1"}
    assert told.environment["VLLM_X"] == "1" and told.environment["LANG"] == "C"


def test_what_a_freeze_needs_is_forced() -> None:
    told = settings({"VLLM_HOST_IP": "10.9.8.7"})
    assert told.environment["VLLM_HOST_IP"] == "127.0.0.1"
    assert told.environment["VLLM_WORKER_MULTIPROC_METHOD"] == "spawn"
    for place in ("TMPDIR", "XDG_CACHE_HOME"):
        assert Path(told.environment[place]) in told.paths.carried


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"engine_env": {"HF_TOKEN": "x"}}, "engineEnv.HF_TOKEN"),
        ({"engine_env": {"A": "x"}, "secret_env": ("A",)}, "engineEnv.A"),
        ({"engine_env": {"VLLM_WORKER_MULTIPROC_METHOD": "fork"}}, "VLLM_WORKER_MULTIPROC_METHOD"),
        ({"secret_env": ("ABSENT",)}, "ABSENT"),
        ({"model": ModelConfig(name="m", path="/nonexistent")}, "model.path"),
    ],
)
def test_what_cannot_be_is_refused_by_name(fields: dict[str, Any], named: str) -> None:
    with pytest.raises(ConfigError, match=named):
        settings({"A": "1"}, **fields)


@pytest.mark.parametrize("text", ["", "{", '{"pool":"p"}', '{"pool":"p","surprise":1}'])
def test_a_configuration_that_is_none(text: str) -> None:
    with pytest.raises(ConfigError, match=names.ENV_CONFIG):
        read_settings({names.ENV_CONFIG: text})


def test_paths_of_one_run_are_the_same_in_every_pod() -> None:
    assert str(environment.RunPaths(Path(names.PATH_RUN)).socket) == "/run/vernal/engine.sock"


# --- the front door ---


def test_the_admin_token_stays_in_process_one() -> None:
    found = settings({names.ENV_ADMIN_TOKEN: "sesame"}, secret_env=(names.ENV_ADMIN_TOKEN,))
    assert found.admin_token == "sesame"
    assert "sesame" not in (*found.environment.values(), *found.secrets.values(), *found.shaping.values())
    assert settings().admin_token is None
    with pytest.raises(ConfigError, match=names.ENV_ADMIN_TOKEN):
        settings(engine_env={names.ENV_ADMIN_TOKEN: "sesame"})


def test_the_signing_key_stays_in_process_one() -> None:
    found = settings({names.ENV_SIGNING_KEY: "sesame"}, secret_env=(names.ENV_SIGNING_KEY,))
    assert found.signing_key == b"sesame"
    assert "sesame" not in (*found.environment.values(), *found.secrets.values(), *found.shaping.values())


def test_keep_alive_is_the_pools_or_what_vllm_is_told() -> None:
    assert settings().keep_alive == 120.0
    assert settings(keep_alive_seconds=620.0).keep_alive == 620.0
    assert settings(engine_env={"VLLM_HTTP_TIMEOUT_KEEP_ALIVE": "30"}).keep_alive == 30.0
    with pytest.raises(ConfigError):
        settings(engine_env={"VLLM_HTTP_TIMEOUT_KEEP_ALIVE": "long"})


# --- GPUs ---


@pytest.fixture
def four_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    found = Gpus("NVIDIA H100", 4, "580.159.04", tuple(f"GPU-{number}" for number in range(4)))
    monkeypatch.setattr("vernal_worker.supervisor.context.gpus", lambda: found)


def test_two_gpus_that_are_to_be_frozen(four_gpus: None) -> None:
    setup = settings(engine_args={"tensorParallelSize": 2}).engine(freezable=True)
    assert setup.arguments["disable_custom_all_reduce"] is True
    assert setup.environment["NCCL_P2P_DISABLE"] == "1" and setup.environment["NCCL_SOCKET_IFNAME"] == "lo"


@pytest.mark.parametrize(
    ("fields", "freezable"),
    [
        ({"engine_args": {"tensorParallelSize": 8}}, False),  # more than can be frozen
        ({"engine_args": {"tensorParallelSize": 2}}, False),  # could be, but this start will not be
        ({"engine_args": {"tensorParallelSize": 2}, "checkpoint": CheckpointConfig(policy=DISABLED)}, False),
    ],
    ids=["refused", "this time not", "disabled"],
)
def test_what_is_not_frozen_is_untouched(four_gpus: None, fields: dict[str, Any], freezable: bool) -> None:
    """Its ranks talk as vLLM and NCCL like best."""
    setup = settings(**fields).engine(freezable=freezable)
    ours = (*environment.SEVERAL_GPUS, *environment.FOR_FREEZING)
    assert not [name for name in ours if name in setup.environment]
    assert set(setup.arguments) == {"model", "served_model_name", "tensor_parallel_size"}


def test_what_is_frozen_has_two_queues_to_a_gpu_unless_the_pool_says_otherwise() -> None:
    name = "CUDA_DEVICE_MAX_CONNECTIONS"
    assert settings().engine(freezable=True).environment[name] == "2"
    assert name not in settings().engine(freezable=False).environment
    assert settings(engine_env={name: "8"}).engine(freezable=True).environment[name] == "8"
    assert settings({name: "4"}).engine(freezable=True).environment[name] == "4", "so the container has it"


def test_what_cannot_be_frozen_keeps_its_own_network_settings(four_gpus: None) -> None:
    own = {"NCCL_SOCKET_IFNAME": "eth1", "VLLM_HOST_IP": "10.9.8.7"}
    told = settings(own, engine_args={"tensorParallelSize": 8}, engine_env={"GLOO_SOCKET_IFNAME": "eth2"})
    seen = told.engine(freezable=False).environment
    assert {**own, "GLOO_SOCKET_IFNAME": "eth2"}.items() <= seen.items()
    with pytest.raises(ConfigError, match="GLOO_SOCKET_IFNAME"):
        settings(engine_args={"tensorParallelSize": 2}, engine_env={"GLOO_SOCKET_IFNAME": "eth2"})


def test_the_selected_gpus_come_first_and_an_engine_that_is_frozen_sees_all(four_gpus: None) -> None:
    told = settings({"CUDA_VISIBLE_DEVICES": "2"})
    assert told.engine(freezable=True).environment["CUDA_VISIBLE_DEVICES"] == "2,0,1,3"
    assert told.engine(freezable=False).environment["CUDA_VISIBLE_DEVICES"] == "2"
    assert told.resume_variables["CUDA_VISIBLE_DEVICES"] == "2,0,1,3", "in a thawed engine it is that of the creator"
    assert "CUDA_VISIBLE_DEVICES" not in told.shaping, "it is this pod's"
    free = settings()
    assert "CUDA_VISIBLE_DEVICES" not in {**free.engine(freezable=True).environment, **free.resume_variables}


def test_fewer_gpus_selected_than_the_engine_needs(four_gpus: None) -> None:
    with pytest.raises(
        ConfigError, match=r"CUDA_VISIBLE_DEVICES is '1', which selects 1 of 4 GPUs: the engine needs 2"
    ):
        settings({"CUDA_VISIBLE_DEVICES": "1"}, engine_args={"tensorParallelSize": 2})


def test_what_a_newer_operator_says_is_left_out_and_logged(capfd: pytest.CaptureFixture[str]) -> None:
    newer = encode(config()).replace('"pool"', '"invented":1,"pool"')
    told = read_settings({"PATH": "/bin", names.ENV_CONFIG: newer})
    assert told.config == config()
    assert "event=config_unknown fields=invented" in capfd.readouterr().out
    with pytest.raises(ConfigError, match=r"does not know invented.*operator's release"):
        read_settings({names.ENV_CONFIG: newer.replace('"mustUnderstand":[]', '"mustUnderstand":["invented"]')})


POD = {"VERNAL_POD_NAME": "pool-7d9-2", "VERNAL_POD_IP": "10.9.8.7", "VERNAL_POD_UID": "u-1", "VERNAL_NODE_NAME": "n1"}


@pytest.mark.parametrize(
    ("variable", "value", "what"),
    [
        ("VLLM_NIXL_SIDE_CHANNEL_HOST", "10.9.8.7", "address"),
        ("VLLM_X", "tcp://10.9.8.7:5557", "address"),
        ("NCCL_Y", "pool-7d9-2", "name"),
        ("HF_Z", "n1", "node"),
    ],
)
def test_a_variable_that_names_the_pod_is_named_and_nothing_is_frozen(variable: str, value: str, what: str) -> None:
    told = settings({**POD, variable: value})
    assert told.unfreezable is not None
    assert f"{variable} is this pod's {what}" in told.unfreezable
    assert settings({**POD, variable: "10.9.8.70 pool-7d9-21 xn1"}).unfreezable is None


def test_connectors_of_others_are_refused_by_name_and_ours_is_not() -> None:
    told = settings(kv_transfer=KVTransferConfig(connector="NixlConnector"))
    assert told.unfreezable is not None and "NixlConnector" in told.unfreezable
    raw = settings(engine_args={"kvTransferConfig": {"kv_connector": "LMCacheConnectorV1", "kv_role": "kv_both"}})
    assert raw.unfreezable is not None and "LMCacheConnectorV1" in raw.unfreezable
    assert settings(kv_transfer=KVTransferConfig(path="/kv")).unfreezable is None


@pytest.mark.parametrize(
    "arguments",
    [
        {"kvTransferConfig": '{"kv_connector":"NixlConnector","kv_role":"kv_both"}'},
        {"kvTransferConfig.kv_connector": "NixlConnector"},
        {"--kv_transfer_config.kv_connector": "NixlConnector"},
    ],
)
def test_connectors_of_others_are_refused_however_they_are_written(arguments: dict[str, Any]) -> None:
    assert "NixlConnector" in (settings(engine_args=arguments).unfreezable or "")


def test_compilers_keep_what_they_make_where_it_travels_with_the_checkpoint() -> None:
    told = settings()
    for name in ("CUDA_CACHE_PATH", "FLASHINFER_WORKSPACE_BASE", "TORCH_EXTENSIONS_DIR", "TRITON_CACHE_DIR"):
        assert any(Path(told.environment[name]).is_relative_to(place) for place in told.paths.carried), name


def test_a_signing_key_is_neither_the_engines_nor_of_use_where_not_every_byte_is_read() -> None:
    told = settings({names.ENV_SIGNING_KEY: "sesame"})
    assert told.signing_key == b"sesame"
    for freezable in (True, False):
        assert "sesame" not in json.dumps(dict(told.engine(freezable=freezable).environment))
    with pytest.raises(ConfigError, match="verify must be Full"):
        settings({names.ENV_SIGNING_KEY: "sesame"}, checkpoint=CheckpointConfig(verify=Verify.SIZES))


# --- a bucket ---

BUCKET = CheckpointConfig(object_store=ObjectStoreConfig(url="s3://b/p", region="r"))
OBJECT_STORE_KEYS = {f"{names.ENV_OBJECT_STORE}{name}": "planted" for name in KEYS}


def test_credentials_of_the_bucket_stay_in_process_1() -> None:
    """Also where a configuration says that they are the engine's."""
    told = settings(OBJECT_STORE_KEYS, checkpoint=BUCKET, secret_env=tuple(OBJECT_STORE_KEYS))
    assert told.object_store_keys == dict.fromkeys(KEYS, "planted")
    for freezable in (True, False):
        assert "planted" not in str(told.engine(freezable=freezable))
    assert "planted" not in str((told.resume_variables, told.shaping, told.secrets))


def test_a_bucket_that_cannot_be_one_is_refused_at_once() -> None:
    with pytest.raises(ConfigError, match=r"checkpoint\.objectStore: 'nonsense' is no bucket"):
        settings(checkpoint=CheckpointConfig(object_store=ObjectStoreConfig(url="nonsense")))
    half = {f"{names.ENV_OBJECT_STORE}AWS_ACCESS_KEY_ID": "planted"}
    with pytest.raises(ConfigError, match="no AWS_SECRET_ACCESS_KEY") as error:
        settings(half, checkpoint=BUCKET)
    assert "planted" not in str(error.value)
    assert settings(checkpoint=BUCKET).object_store_keys == {}, "the pod's own, such as its web identity"
