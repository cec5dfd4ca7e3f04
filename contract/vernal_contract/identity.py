"""The two hashes that decide whether an artifact fits a worker.

*Artifact identity*: what is in the frozen process (code, arguments, model, versions). Workers with the same identity
may share one artifact, whatever pool they are of. *Host tuple*: what the frozen process expects around it (CPU, kernel,
GPU, driver, mount points). Both must be equal for a thaw; both are compared field by field, so that a refusal can name
the field.
"""

import hashlib
from typing import Any

import msgspec

FORMAT_VERSION = 1
"""Version of the artifact's layout on the store. A reader refuses a higher one (`Reason.FORMAT_UNSUPPORTED`)."""


class IdentityInputs(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, rename="camel"):
    """What the artifact identity is a hash of."""

    format_version: int = FORMAT_VERSION
    image_id: str  # content address of the worker image's software (names.PATH_IMAGE_ID)
    engine_args: dict[str, Any]  # canonical: defaults left out, names in snake_case
    engine_env: dict[str, str]
    model: str
    model_revision: str | None = None
    model_digest: str | None = None  # digest of the model directory's listing (names, sizes) where it is mounted
    dtype: str | None = None
    tensor_parallel: int = 1
    pipeline_parallel: int = 1
    weights: str
    versions: dict[str, str]  # python, vllm, torch, criu


class HostTuple(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, rename="camel"):
    """What a frozen process expects around it."""

    architecture: str
    cpu_features: tuple[str, ...]  # sorted flags that compiled code may have relied on
    kernel: str  # release up to the minor version, e.g. "6.18"
    gpu_product: str | None = None
    gpu_count: int = 0
    gpu_compute_capability: str | None = None
    gpu_driver: str | None = None
    mounts: tuple[str, ...] = ()  # sorted mount destinations that the process may have open


def _canonical(value: Any) -> bytes:
    return msgspec.json.encode(value, order="sorted")


def digest(value: IdentityInputs | HostTuple) -> str:
    """SHA-256 over the canonical JSON (keys sorted, no spaces), in hex."""
    return hashlib.sha256(_canonical(value)).hexdigest()


def differences(wanted: IdentityInputs | HostTuple, found: IdentityInputs | HostTuple) -> list[str]:
    """One line per field that differs: `field: artifact has X, this host has Y` (`wanted` is the artifact's)."""
    a, b = msgspec.to_builtins(wanted), msgspec.to_builtins(found)
    lines: list[str] = []
    for key in sorted(a.keys() | b.keys()):
        left, right = a.get(key), b.get(key)
        if _canonical(left) == _canonical(right):  # as they travel: to Python, 1 == True
            continue
        if isinstance(left, list | tuple) and isinstance(right, list | tuple):
            gone, new = sorted(set(left) - set(right)), sorted(set(right) - set(left))
            lines.append(f"{key}: only in the artifact {gone}, only on this host {new}")
        else:
            lines.append(f"{key}: artifact has {left!r}, this host has {right!r}")
    return lines
