"""The configuration that a pod hands to its worker as JSON in one environment variable (`names.ENV_CONFIG`).

One variable rather than many, so that the whole is checked at once and by both sides with the same types.
"""

from collections.abc import Iterator, Mapping
from enum import StrEnum
from typing import Any

import msgspec

from vernal_contract import decoding, names

MAX_BODY_BYTES = 256 << 20
"""The largest body of an HTTP request, unless a pool says otherwise: images and other media in it are Base64."""

WARM_UP_MORE_SECONDS = 120
"""For what the engine compiles when `warm_up_seconds` are over: it ends that before it answers."""


class _Base(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """Unknown fields are left out when it is read: see `decode`."""


class CheckpointPolicy(StrEnum):
    AUTO = "Auto"  # thaw if an artifact fits, else start cold and freeze
    REQUIRED = "Required"  # like Auto, but a thaw that fails stops the worker instead of starting cold
    DISABLED = "Disabled"  # plain cold start, no store, no CRIU


class WeightsPlacement(StrEnum):
    EXTERNAL = "External"  # weights in a content-addressed blob, streamed to the GPU after the thaw
    IN_IMAGE = "InImage"  # weights stay in process memory and so in the CRIU image (always so on a CPU)


class Verify(StrEnum):
    FULL = "Full"  # every byte against its digest before the worker is ready
    SIZES = "Sizes"  # manifest, presence and sizes only: for storage that checks its own bytes


class ModelConfig(_Base, frozen=True):
    """Which model. `path` is where the pod mounts it, or None if vLLM fetches `name` itself."""

    name: str
    revision: str | None = None
    path: str | None = None


class ObjectStoreConfig(_Base, frozen=True):
    """Where checkpoints are kept instead of in the store, which is then a copy of this pod's own. Credentials are in
    variables that begin with `names.ENV_OBJECT_STORE`."""

    url: str  # s3://BUCKET/PREFIX
    endpoint: str | None = None  # of a server that is not AWS
    region: str | None = None


class CheckpointConfig(_Base, frozen=True):
    """How to freeze and thaw. Times in seconds."""

    policy: CheckpointPolicy = CheckpointPolicy.AUTO
    store_path: str = names.PATH_STORE
    object_store: ObjectStoreConfig | None = None
    user: str = ""  # on whose behalf artifacts are in the store; the janitor lets go of the same
    weights: WeightsPlacement = WeightsPlacement.EXTERNAL
    verify: Verify = Verify.FULL
    restore_attempts: int = 3  # failed thaws of one generation before it is quarantined
    warm_up_seconds: float = 120.0  # before the freeze, for what compiles when it is first asked for; 0 for none
    freeze_timeout_seconds: float = 600.0
    thaw_timeout_seconds: float | None = None  # None: as long as the artifact's size makes it (see the worker's `pace`)
    gpu_memory_wait_seconds: float = 60.0  # how long to wait for GPU memory that another process holds; then exit


class DrainConfig(_Base, frozen=True):
    """The budget from SIGTERM to exit, in seconds; the three parts fit into the grace period (the CRD checks it)."""

    propagation_seconds: float = 5.0  # still accepting while endpoints and load balancers catch up
    timeout_seconds: float = 90.0  # in-flight requests may run this long after the listener closed
    grace_period_seconds: float = 120.0  # the pod's terminationGracePeriodSeconds


class KVTransferConfig(_Base, frozen=True):
    """Shared KV cache: the role of this pool and what to do when a block fails to load. Words are vLLM's."""

    connector: str = "VernalSharedStorageConnector"
    role: str = "kv_both"
    load_failure_policy: str = "recompute"
    path: str | None = None
    max_bytes: int | None = None
    options: dict[str, Any] = {}  # more of the connector's own


class WorkerConfig(_Base, frozen=True):
    """Everything a worker is told. `engine_env` reaches the engine's environment and counts towards the identity;
    the values of `secret_env` (names only here) reach the engine after the thaw and are never in a checkpoint."""

    pool: str
    namespace: str
    revision: str
    model: ModelConfig
    engine_args: dict[str, Any] = {}
    engine_env: dict[str, str] = {}
    secret_env: tuple[str, ...] = ()
    checkpoint: CheckpointConfig = CheckpointConfig()
    drain: DrainConfig = DrainConfig()
    kv_transfer: KVTransferConfig | None = None
    startup_timeout_seconds: float = 1800.0
    keep_alive_seconds: float = (
        120.0  # that an HTTP connection without a request is kept; more than proxies keep theirs
    )
    max_body_bytes: int = MAX_BODY_BYTES  # of one HTTP request
    serving_port: int = names.PORT_SERVING
    admin_port: int = names.PORT_ADMIN
    must_understand: tuple[str, ...] = ()
    """Fields, such as "model.variant", without which this is another engine or a promise that is not kept. A worker
    that does not know one of them refuses; all other fields that it does not know it leaves out, and says so."""


def encode(config: WorkerConfig) -> str:
    """The JSON for `names.ENV_CONFIG`; keys in a fixed order, so that equal configurations give equal pods."""
    return msgspec.json.encode(config, order="deterministic").decode()


def decode(text: str) -> WorkerConfig:
    """Parse what `encode` wrote, in this version or in a neighbouring one: what is unknown is left out.

    Raises:
        msgspec.ValidationError: a field is missing, of the wrong type, or unknown though it must be understood; the
            message holds its path.
        msgspec.DecodeError: `text` is not JSON.
    """
    config = decoding.json(text, WorkerConfig)
    if missing := sorted(set(config.must_understand) & set(unknown_fields(text))):
        raise msgspec.ValidationError(
            f"this worker image is older than the operator and does not know {', '.join(missing)}, which must be"
            " understood: use the worker image of the operator's release"
        )
    return config


def unknown_fields(text: str) -> list[str]:
    """Paths, such as "drain.patience", of what `decode` leaves out.

    Raises:
        msgspec.DecodeError: as `decode`.
    """
    known = msgspec.to_builtins(decoding.json(text, WorkerConfig))
    return sorted(_unknown(decoding.json(text, dict[str, Any]), known, ""))


def _unknown(given: Mapping[str, Any], known: Mapping[str, Any], prefix: str) -> Iterator[str]:
    for key, value in given.items():
        if key not in known:
            yield f"{prefix}{key}"
        elif isinstance(value, Mapping) and isinstance(known[key], Mapping):
            yield from _unknown(value, known[key], f"{prefix}{key}.")
