"""Reading stored objects: a typed spec, or an error that names the field. Never an exception.

The API server checks what is written; what is stored may still be older than the schema.
"""

from collections.abc import Mapping
from typing import Any, TypeVar

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from vernal_operator.api.checkpoint import VLLMCheckpointSpec
from vernal_operator.api.common import Model
from vernal_operator.api.pool import VLLMWorkerPoolSpec

M = TypeVar("M", bound=Model)


def parse_pool(raw: Mapping[str, Any]) -> tuple[VLLMWorkerPoolSpec | None, str]:
    """The spec of a VLLMWorkerPool as the API server returns it; else None and what is wrong, field first."""
    return _parse(VLLMWorkerPoolSpec, raw)


def parse_checkpoint(raw: Mapping[str, Any]) -> tuple[VLLMCheckpointSpec | None, str]:
    """The spec of a VLLMCheckpoint; else None and what is wrong, field first."""
    return _parse(VLLMCheckpointSpec, raw)


def _parse(model: type[M], raw: Mapping[str, Any]) -> tuple[M | None, str]:
    spec = raw.get("spec")
    if not isinstance(spec, Mapping):
        return None, "spec: must be an object"
    try:
        return model.model_validate(spec), ""
    except ValidationError as error:
        lines = dict.fromkeys(_line(detail) for detail in error.errors(include_url=False))
        return None, "; ".join(lines)


def _line(detail: ErrorDetails) -> str:
    message = detail["msg"].removeprefix("Value error, ")
    if message.startswith("spec."):
        return message
    path = "spec"
    for part in detail["loc"]:
        if isinstance(part, int):
            path += f"[{part}]"
        elif part not in ("int", "constrained-int", "constrained-str", "str"):  # branches of an int-or-string
            path += f".{part}"
    return f"{path}: {message}"
