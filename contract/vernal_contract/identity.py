"""The two hashes that decide whether an artifact fits a worker.

*Artifact identity*: what is in the frozen process (code, arguments, model, versions). Workers with the same identity
may share one artifact, whatever pool they are of. *Host tuple*: what the frozen process expects around it (CPU, kernel,
GPU, driver, mount points). Both must be equal for a thaw; both are compared field by field, so that a refusal can name
the field.
"""

import hashlib
from collections.abc import Mapping
from typing import Any

import msgspec

from vernal_contract import compare, decoding

FORMAT_VERSION = 1
"""Version of the artifact's layout on the store. A reader refuses a higher one (`Reason.FORMAT_UNSUPPORTED`)."""


class IdentityInputs(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """What the artifact identity is a hash of.

    Who reads those of a newer worker sees the fields that it knows. They have another digest then: compare and show
    such ones as the JSON objects that they were (`digest` and `differences` take both)."""

    format_version: int = FORMAT_VERSION
    image_id: str  # content address of the worker image's software (names.PATH_IMAGE_ID)
    engine_args: dict[str, Any]  # canonical: defaults left out, names in snake_case
    engine_env: dict[str, str]
    model: str
    model_revision: str | None = None  # the commit, where the model comes from a hub
    contents: dict[str, str] = {}  # digests of all that the engine loads from files, by what names it: "model", "env.X"
    dtype: str | None = None
    tensor_parallel: int = 1
    pipeline_parallel: int = 1
    weights: str
    signing_key: str | None = None  # tells the keys apart that artifacts are signed with
    versions: dict[str, str]  # python, vllm, torch, criu


class HostTuple(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """What a frozen process expects around it; of a worker what there is. Read like `IdentityInputs`."""

    architecture: str
    cpu_features: tuple[str, ...]  # sorted flags that compiled code may have relied on
    kernel: str  # release up to the minor version, e.g. "6.18"
    gpu_product: str | None = None  # of several kinds all names; of parts of a GPU (MIG) with their profile
    gpu_count: int = 0  # GPUs, or parts
    gpu_memory_gib: tuple[int, ...] = ()  # of each, sorted; empty where NVML is not there
    gpu_compute_capability: str | None = None  # e.g. "9.0"; None where NVML is not there
    gpu_driver: str | None = None
    mounts: tuple[str, ...] = ()  # sorted mount destinations; of an artifact those that the process uses


def _canonical(value: Any) -> bytes:
    return msgspec.json.encode(value, order="sorted")


def digest(value: IdentityInputs | HostTuple | Mapping[str, Any]) -> str:
    """SHA-256 over the canonical JSON (keys sorted, no spaces), in hex."""
    return hashlib.sha256(_canonical(value)).hexdigest()


def differences(wanted: Any, found: Any) -> list[str]:
    """`compare.differences` of `IdentityInputs`, host tuples, or the JSON objects that they were read from.

    Args:
        wanted: the artifact's.
        found: the same here.
    """
    return compare.differences(_json(wanted), _json(found))


def misfits(artifact: HostTuple, here: HostTuple) -> list[str]:
    """Why a process that was frozen on host `artifact` cannot be thawed on `here`: see `compare.misfits`."""
    return compare.misfits(_json(artifact), _json(here))


def _json(value: Any) -> dict[str, Any]:
    return decoding.json(_canonical(value), dict[str, Any])
