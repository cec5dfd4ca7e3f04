"""The two hashes that decide whether an artifact fits a worker.

*Artifact identity*: what is in the frozen process (code, arguments, model, versions). Workers with the same identity
may share one artifact, whatever pool they are of. *Host tuple*: what the frozen process expects around it (CPU, kernel,
GPU, driver, mount points). Both must be equal for a thaw; both are compared field by field, so that a refusal can name
the field.
"""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import msgspec

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
    """One line per field that differs: `field: artifact has X, this host has Y`, sorted by field. Fields of fields are
    named with dots.

    Args:
        wanted: the artifact's `IdentityInputs` or `HostTuple`, or the JSON object that it was read from.
        found: the same here.
    """
    left, right = (msgspec.json.decode(_canonical(value)) for value in (wanted, found))
    return list(_differences("", left, right))


def misfits(artifact: HostTuple, here: HostTuple) -> list[str]:
    """Why a process that was frozen on host `artifact` cannot be thawed on `here`, one line a field; none if it can.

    More CPU features and more mounts than it uses do no harm; everything else must be equal.
    """
    more = {
        name: tuple(item for item in getattr(artifact, name) if item in getattr(here, name))
        for name in ("cpu_features", "mounts")
    }
    return differences(artifact, msgspec.structs.replace(here, **more))


def _differences(prefix: str, left: Mapping[str, Any], right: Mapping[str, Any]) -> Iterator[str]:
    for key in sorted(left.keys() | right.keys()):
        name, a, b = f"{prefix}{key}", left.get(key, _ABSENT), right.get(key, _ABSENT)
        if a is not _ABSENT and b is not _ABSENT and _canonical(a) == _canonical(b):  # as they travel: 1 is not True
            continue
        if isinstance(a, Mapping) and isinstance(b, Mapping):
            yield from _differences(f"{name}.", a, b)
        elif isinstance(a, list) and isinstance(b, list) and (_only(a, b) or _only(b, a)):
            yield f"{name}: only in the artifact {_only(a, b)}, only on this host {_only(b, a)}"
        else:
            yield f"{name}: artifact has {_show(a)}, this host has {_show(b)}"


_ABSENT = object()


def _only(these: Sequence[Any], those: Sequence[Any]) -> list[Any]:
    other = set(map(_canonical, those))
    return sorted((item for item in these if _canonical(item) not in other), key=_canonical)


def _show(value: Any) -> str:
    return "nothing" if value is _ABSENT else repr(value)
