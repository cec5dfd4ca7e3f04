"""What every step of a worker's life needs."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
from vernal_contract import names
from vernal_contract.config import CheckpointPolicy, Verify, WorkerConfig, decode, unknown_fields
from vernal_contract.reasons import Reason

from vernal_worker.bucket import credentials
from vernal_worker.checkpoint.cuda.visible import VARIABLE as VISIBLE
from vernal_worker.checkpoint.cuda.visible import Selection, select
from vernal_worker.checkpoint.gpu import gpus
from vernal_worker.control.protocol import PodIdentity
from vernal_worker.supervisor import caching, engine_args, environment, log, stores
from vernal_worker.supervisor.board import Board
from vernal_worker.supervisor.environment import RunPaths
from vernal_worker.supervisor.reaper import Reaper
from vernal_worker.supervisor.software import ENV_CRIU
from vernal_worker.supervisor.stop import Stop

VLLM_KEEP_ALIVE = "VLLM_HTTP_TIMEOUT_KEEP_ALIVE"
"""vLLM's own variable for what `keepAliveSeconds` says; where a pool sets it, it counts."""

_OURS = (names.ENV_ADMIN_TOKEN, names.ENV_SIGNING_KEY)
"""Secrets of process 1, which no engine gets, whatever it is told."""


def _is_ours(name: str) -> bool:
    return name in _OURS or name.startswith(names.ENV_OBJECT_STORE)


class ConfigError(Exception):
    """The worker was told something that it cannot do; the message names the field."""


class Repository(msgspec.Struct, frozen=True):
    """What an engine is to get from a hub. `where`: "model", or the place, as in `contents` of identities."""

    where: str
    name: str
    revision: str | None = None


class EngineSetup(msgspec.Struct, frozen=True):
    """What vLLM is started with."""

    arguments: Mapping[str, Any]
    environment: Mapping[str, str]


class Settings(msgspec.Struct, frozen=True):
    """Everything that a worker is told, checked: made once, from the environment."""

    config: WorkerConfig
    pod: PodIdentity
    secrets: Mapping[str, str]
    admin_token: str | None  # for `POST /drain`; None: only from inside the pod
    arguments: Mapping[str, Any]  # of vLLM, canonical
    keep_alive: float  # seconds that an idle HTTP connection is kept
    shaping: Mapping[str, str]  # environment variables that count towards the identity
    environment: Mapping[str, str]  # of an engine that can be frozen
    untouched: Mapping[str, str]  # of one that is not
    gpus: Selection
    signing_key: bytes | None  # of the store's artifacts
    object_store_keys: Mapping[str, str]  # credentials of the bucket, if the pool has any
    renew: frozenset[str]  # generations that are to be replaced
    node_cache: int | None  # bytes that the node cache may have; None: there is none
    unfreezable: str | None  # why an engine like this is never frozen
    paths: RunPaths
    criu: str
    repositories: tuple[Repository, ...] = ()
    """What the engine needs of a hub, with commits; made by `hub.pin`."""
    mounts: tuple[str, ...] | None = None
    """Mount points for the host tuple; None for those of this container."""

    def engine(self, *, freezable: bool) -> EngineSetup:
        """What vLLM is started with."""
        if freezable:
            devices = self.gpus.every
            return EngineSetup(engine_args.for_freezing(self.arguments), _with(self.environment, devices))
        # Nothing of it is ever written down, so it may have the pod's secrets while it loads.
        return EngineSetup(self.arguments, _with({**self.untouched, **self.secrets}, self.gpus.given))

    @property
    def gpus_used(self) -> int:
        """On how many GPUs the engine computes: the first ones that CUDA lists."""
        return engine_args.gpus_used(self.arguments)

    @property
    def resume_variables(self) -> dict[str, str]:
        """Variables that an engine gets when it becomes this pod's. The GPUs that a thawed one is on are not those that
        its own variable names."""
        return {**self.secrets, **({VISIBLE: self.gpus.every} if self.gpus.every is not None else {})}


def _with(environment: Mapping[str, str], devices: str | None) -> Mapping[str, str]:
    return environment if devices is None else {**environment, VISIBLE: devices}


class Context(msgspec.Struct, frozen=True):
    settings: Settings
    board: Board
    stop: Stop
    reaper: Reaper


def read_settings(variables: Mapping[str, str]) -> Settings:
    """Check what the environment says.

    Raises:
        ConfigError: something is missing, wrong or not allowed.
    """
    text = variables.get(names.ENV_CONFIG)
    if not text:
        raise ConfigError(f"{names.ENV_CONFIG} is not set; `vernal-worker --help` shows what it looks like")
    try:
        config = decode(text)
        if unknown := unknown_fields(text):
            log.event("config_unknown", fields=" ".join(unknown), message="from a newer operator; left out")
    except msgspec.DecodeError as error:
        raise ConfigError(f"{names.ENV_CONFIG}: {error}") from error
    if absent := environment.missing(config.secret_env, variables):
        raise ConfigError(f"secretEnv names variables that the container does not have: {', '.join(absent)}")
    if config.model.path is not None and not Path(config.model.path, "config.json").is_file():
        raise ConfigError(f"model.path: there is no model at {config.model.path} (no config.json)")
    paths = RunPaths(Path(names.PATH_RUN))
    try:
        arguments = engine_args.engine_arguments(config)
        found = gpus()
        unfreezable = engine_args.unfreezable(arguments, on_gpus=found.count > 0)
        freezable = config.checkpoint.policy is not CheckpointPolicy.DISABLED and unfreezable is None
        shaping = environment.tuning(variables, config, freezable=freezable)
        keep_alive = float(shaping.get(VLLM_KEEP_ALIVE, config.keep_alive_seconds))
    except (engine_args.ArgumentError, environment.VariableError, ValueError) as error:
        raise ConfigError(str(error)) from error
    selection = select(variables.get(VISIBLE), found.uuids)
    if selection.given is not None and selection.selected < (used := engine_args.gpus_used(arguments)) and found.count:
        here = f"{selection.selected} of {found.count} GPUs"
        raise ConfigError(f"{VISIBLE} is {selection.given!r}, which selects {here}: the engine needs {used}")

    def engine_environment(freezable: bool) -> dict[str, str]:
        several = engine_args.several_gpus(arguments)
        return environment.engine_environment(shaping, config, paths, freezable=freezable, several_gpus=several)

    signing_key = variables.get(names.ENV_SIGNING_KEY, "").encode() or None
    if signing_key is not None and config.checkpoint.verify is not Verify.FULL:
        raise ConfigError("checkpoint.verify must be Full with a signing key: what is not read is not proven")
    object_store_keys = credentials.given(variables)
    if config.checkpoint.object_store is not None and config.checkpoint.policy is not CheckpointPolicy.DISABLED:
        try:
            stores.connect(config.checkpoint.object_store, object_store_keys, retry_seconds=0.0)  # only looks at it
        except ValueError as error:
            raise ConfigError(f"checkpoint.objectStore: {error}") from error
    try:
        node_cache = caching.limit(variables)
    except ValueError as error:
        raise ConfigError(str(error)) from error
    pod = PodIdentity(
        name=variables.get(names.ENV_POD_NAME) or os.uname().nodename,
        namespace=variables.get(names.ENV_POD_NAMESPACE) or config.namespace,
        uid=variables.get(names.ENV_POD_UID, ""),
        ip=variables.get(names.ENV_POD_IP, ""),
        node=variables.get(names.ENV_NODE_NAME, ""),
    )
    return Settings(
        config=config,
        pod=pod,
        signing_key=signing_key,
        object_store_keys=object_store_keys,
        node_cache=node_cache,
        renew=frozenset(filter(None, variables.get(names.ENV_RENEW, "").split(","))),
        unfreezable=unfreezable or environment.names_pod(shaping, pod),
        secrets={name: variables[name] for name in config.secret_env if not _is_ours(name)},
        admin_token=variables.get(names.ENV_ADMIN_TOKEN) or None,
        arguments=arguments,
        keep_alive=keep_alive,
        shaping=shaping,
        environment=engine_environment(freezable=True),
        untouched=engine_environment(freezable=False),
        gpus=selection,
        paths=paths,
        criu=variables.get(ENV_CRIU) or "criu",
    )


CALL_TIMEOUT = 120.0
"""For calls to a loaded engine that are quick unless something is wrong, in seconds."""


class StoppedError(Exception):
    """The worker was told to stop before it was ready."""


class StartError(Exception):
    """There is no engine, and there will be none in this container."""

    def __init__(self, reason: Reason, message: str, *, required: bool = False) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message
        self.required = required  # a cold start might have worked, but the policy forbids it
