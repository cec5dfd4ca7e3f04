"""Engine arguments that can be given to an engine in other processes, and those that cannot."""

import dataclasses
import enum
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from vernal_worker.client.arguments import (
    NETWORKED_CONNECTORS,
    plain,
    plain_values,
    refuse_given,
    refuse_networked,
)
from vernal_worker.supervisor.engine_args import ArgumentError


class Backend(enum.Enum):
    FLASH = "a.class.path"


class Mode(enum.IntEnum):
    NONE = 0
    ALL = 3


@dataclasses.dataclass
class Inner:
    a: int = 1
    hook: Callable[[], None] | None = None


@dataclasses.dataclass
class Arguments:
    """As vLLM's AsyncEngineArgs."""

    model: str = "m"
    config: Inner = dataclasses.field(default_factory=Inner)
    backend: Backend | None = None
    revision: str | None = None


def test_only_what_is_not_the_default() -> None:
    assert plain(Arguments("m")) == {"model": "m"}
    given = Arguments("other", Inner(a=2), Backend.FLASH)
    assert plain(given) == {"model": "other", "config": {"a": 2}, "backend": "FLASH"}


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ((1, 2.5, None, True), [1, 2.5, None, True]),
        ({"b", "a"}, ["a", "b"]),
        (Path("/models/x"), "/models/x"),
        ({1: {"deep": (Path("/x"),)}}, {"1": {"deep": ["/x"]}}),
        (Mode.ALL, 3),
    ],
)
def test_values_in_plain_form(value: Any, expected: Any) -> None:
    assert plain_values({"name": value}) == {"name": expected}


def test_dtypes_by_name() -> None:
    import torch

    assert plain_values({"dtype": torch.bfloat16, "kv": {"dtype": torch.float32}}) == {
        "dtype": "bfloat16",
        "kv": {"dtype": "float32"},
    }


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"hf_overrides": lambda config: config}, "hf_overrides is a function"),
        ({"hf_overrides": {"inner": len}}, "hf_overrides.inner is a function"),
        ({"logits_processors": ["a:B", Inner]}, r"logits_processors\[1\] is the class Inner.*'package.module:Class'"),
        ({"config": Inner(hook=print)}, "config.hook is a function"),
        ({"seed": object()}, "seed is a object"),
    ],
)
def test_what_has_no_plain_form_is_named(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        plain_values(arguments)


def connector(name: str) -> dict[str, Any]:
    return {"kv_connector": name, "kv_role": "kv_both"}


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        *(({"kv_transfer_config": connector(name)}, name) for name in sorted(NETWORKED_CONNECTORS)),
        (
            {
                "kv_transfer_config": {
                    "kv_connector": "MultiConnector",
                    "kv_connector_extra_config": {
                        "connectors": [connector("VernalSharedStorageConnector"), connector("NixlConnector")]
                    },
                }
            },
            "kv_transfer_config.kv_connector_extra_config.connectors.kv_connector: NixlConnector",
        ),
        ({"ec_transfer_config": {"ec_connector": "ECMooncakeConnector"}}, "ec_transfer_config.ec_connector"),
        ({"kv_offloading_backend": "lmcache"}, "kv_offloading_backend: lmcache"),
        ({"kv_events_config": {"enable_kv_cache_events": True}}, "kv_events_config"),
        ({"kv_events_config": {"publisher": "zmq", "endpoint": "tcp://*:5557"}}, "kv_events_config"),
        ({"otlp_traces_endpoint": "grpc://collector:4317"}, "otlp_traces_endpoint"),
        ({"weight_transfer_config": {"backend": "nccl"}}, "weight_transfer_config.backend"),
        ({"distributed_executor_backend": "ray"}, "distributed_executor_backend: ray"),
        ({"data_parallel_backend": "ray"}, "data_parallel_backend: ray"),
        ({"nnodes": 2}, "nnodes"),
        ({"master_addr": "10.0.0.1"}, "master_addr: 10.0.0.1"),
        ({"data_parallel_address": "10.0.0.1"}, "data_parallel_address"),
    ],
)
def test_what_needs_a_network_is_refused_by_name(arguments: dict[str, Any], named: str) -> None:
    with pytest.raises(ArgumentError, match=r"the engine has no network.*start='disabled'") as refused:
        refuse_networked(arguments)
    assert named in str(refused.value)


@pytest.mark.parametrize(
    "arguments",
    [
        {},
        {"kv_transfer_config": connector("VernalSharedStorageConnector")},
        {"kv_transfer_config": connector("OffloadingConnector")},
        {"kv_transfer_config": None, "kv_events_config": None},
        {"kv_events_config": {"enable_kv_cache_events": True, "publisher": "null"}},
        {"weight_transfer_config": {"backend": "ipc"}, "distributed_executor_backend": "mp"},
        {"master_addr": "127.0.0.1", "nnodes": 1, "kv_offloading_backend": "native"},
    ],
)
def test_what_needs_none_is_not(arguments: dict[str, Any]) -> None:
    refuse_networked(arguments)


def test_objects_of_the_program_are_refused_by_name() -> None:
    refuse_given("from_engine_args", stat_loggers=None)
    refuse_given("from_engine_args", stat_loggers=[])
    with pytest.raises(ArgumentError, match=r"from_engine_args: stat_loggers cannot be given.*start='disabled'"):
        refuse_given("from_engine_args", stat_loggers=[print])
