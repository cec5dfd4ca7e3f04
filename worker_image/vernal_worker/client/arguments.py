"""Which engine arguments can be given to an engine in other processes, without a network: pure, without vLLM."""

import dataclasses
import enum
import os
from collections.abc import Iterator, Mapping
from typing import Any

from vernal_worker.supervisor.engine_args import ArgumentError

_PLAIN = (str, int, float, bool)
_ALONE = "127.0.0.1", "localhost", "::1"

NETWORKED_CONNECTORS = frozenset(
    {
        "FlexKVConnectorV1",
        "HF3FSKVConnector",
        "LMCacheConnectorV1",
        "LMCacheMPConnector",
        "MoRIIOConnector",
        "MooncakeConnector",
        "MooncakeStoreConnector",
        "NixlConnector",
        "NixlPullConnector",
        "NixlPushConnector",
        "P2pNcclConnector",
        "ECMooncakeConnector",
    }
)
"""vLLM's connectors that talk to other machines or to servers."""


def plain(engine_args: Any) -> dict[str, Any]:
    """The arguments in an AsyncEngineArgs that are not the defaults, in plain values.

    Raises:
        ArgumentError: one has a value that has no plain form.
    """
    defaults = type(engine_args)(model=engine_args.model)
    fields = [field.name for field in dataclasses.fields(engine_args)]
    given = {name: getattr(engine_args, name) for name in fields}
    return plain_values({n: v for n, v in given.items() if n == "model" or v != getattr(defaults, n)})


def plain_values(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """What JSON has, for arguments as a program gives them: torch's dtypes by name, paths as text, vLLM's
    configuration objects as what in them is not the default.

    Raises:
        ArgumentError: a value has no such form; the message names it.
    """
    return {name: _plain(name, value) for name, value in arguments.items()}


def _plain(name: str, value: Any) -> Any:
    if value is None or isinstance(value, _PLAIN):
        return value
    if isinstance(value, enum.Enum):
        return value.name
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if isinstance(value, list | tuple):
        return [_plain(f"{name}[{number}]", item) for number, item in enumerate(value)]
    if isinstance(value, set | frozenset):
        return sorted(_plain(name, item) for item in value)
    if isinstance(value, Mapping):
        return {str(key): _plain(f"{name}.{key}", item) for key, item in value.items()}
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        defaults = type(value)()
        fields = [f.name for f in dataclasses.fields(value) if f.init]
        return {f: _plain(f"{name}.{f}", getattr(value, f)) for f in fields if _differ(value, defaults, f)}
    if type(value).__module__ == "torch" and type(value).__name__ == "dtype":
        return str(value).removeprefix("torch.")
    raise ArgumentError(_refusal(name, value))


def _differ(value: Any, defaults: Any, field: str) -> bool:
    return bool(getattr(value, field) != getattr(defaults, field))


def _refusal(name: str, value: Any) -> str:
    if isinstance(value, type):
        return f"{name} is the class {value.__qualname__}, which cannot be sent: give its name, 'package.module:Class'"
    if callable(value):
        return f"{name} is a function, which cannot be sent to the engine's process: give plain values"
    return f"{name} is a {type(value).__name__}: give it in plain values, as on vLLM's command line"


def refuse_given(method: str, **objects: Any) -> None:
    """What AsyncLLM takes and an engine in other processes cannot.

    Raises:
        ArgumentError: one of `objects` is not None or empty; the message names it.
    """
    for name, value in objects.items():
        if value:
            raise ArgumentError(
                f"{method}: {name} cannot be given to an engine in other processes; start='disabled' makes a plain"
                " AsyncLLM, which takes it"
            )


def refuse_networked(arguments: Mapping[str, Any]) -> None:
    """The engine has no network but its own loopback.

    Raises:
        ArgumentError: an argument (canonical) needs one; the message names it.
    """
    for problem in _networked(arguments):
        raise ArgumentError(
            f"{problem}, and the engine has no network: leave it out, or start='disabled' for a plain AsyncLLM"
        )


def _networked(arguments: Mapping[str, Any]) -> Iterator[str]:
    for name, field in (("kv_transfer_config", "kv_connector"), ("ec_transfer_config", "ec_connector")):
        for where, connector in _connectors(name, field, arguments.get(name)):
            if connector in NETWORKED_CONNECTORS:
                yield f"{where}: {connector} talks to other machines or to a server"
    if arguments.get("kv_offloading_backend") == "lmcache":
        yield "kv_offloading_backend: lmcache talks to a server"
    events = _mapping(arguments.get("kv_events_config"))
    if events.get("publisher", "zmq" if events.get("enable_kv_cache_events") else "null") != "null":
        yield "kv_events_config: events are published for other machines"
    if arguments.get("otlp_traces_endpoint"):
        yield "otlp_traces_endpoint: traces are sent to a server"
    if _mapping(arguments.get("weight_transfer_config")).get("backend", "ipc") != "ipc":
        yield "weight_transfer_config.backend: weights come from other machines"
    for name in ("distributed_executor_backend", "data_parallel_backend"):
        if arguments.get(name) in ("ray", "external_launcher"):
            yield f"{name}: {arguments[name]} starts processes elsewhere"
    if int(arguments.get("nnodes", 1)) > 1:
        yield "nnodes: there are other machines"
    for name in ("master_addr", "data_parallel_address"):
        if arguments.get(name) not in (None, *_ALONE):
            yield f"{name}: {arguments[name]} is another machine"


def _connectors(where: str, field: str, config: Any) -> Iterator[tuple[str, Any]]:
    """Those of a MultiConnector, too."""
    config = _mapping(config)
    yield f"{where}.{field}", config.get(field)
    extra = f"{where}.{field}_extra_config"
    for inner in _mapping(config.get(f"{field}_extra_config")).get("connectors") or ():
        yield from _connectors(f"{extra}.connectors", field, inner)


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}
