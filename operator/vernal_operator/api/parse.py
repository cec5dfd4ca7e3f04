"""Reading stored objects: a typed spec, or an error that names the field. Never an exception.

The API server checks what is written; what is stored may still be older than the schema.
"""

from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

from pydantic import ValidationError
from pydantic_core import ErrorDetails
from vernal_contract.decoding import LEVELS, too_deep

from vernal_operator.api.checkpoint import VLLMCheckpointSpec
from vernal_operator.api.common import Model
from vernal_operator.api.pool import VLLMWorkerPoolSpec

M = TypeVar("M", bound=Model)

_MOST, _LONGEST = 10, 16_000  # problems, and characters in all, that a person is told of at once


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
    # Kubernetes takes 10,000 levels where a field is free. To copy, compare and write them again is recursive.
    if deep := [name for name, value in spec.items() if too_deep(value)]:
        return None, _told(f"spec.{name}: must not be nested deeper than {LEVELS} levels" for name in deep)
    try:
        return model.model_validate(spec), ""
    except ValidationError as error:
        return None, _told(map(_line, error.errors(include_url=False, include_input=False)))


def readable(status: Mapping[str, Any], model: type[Model]) -> dict[str, Any]:
    """A status without the fields in which a moment cannot be: Kubernetes' check of date-time lets more through than
    there is. The plan writes them anew."""
    try:
        model.model_validate(status)
        return dict(status)
    except ValidationError as error:
        details = error.errors(include_url=False)
        wrong = {detail["loc"][0] for detail in details if detail["type"].startswith(("datetime", "timezone"))}
        return {name: value for name, value in status.items() if name not in wrong}


def _told(problems: Iterable[str]) -> str:
    """In one line, which a condition has room for whatever is in it."""
    lines = list(dict.fromkeys(problems))
    more = f"; and {len(lines) - _MOST} more" if len(lines) > _MOST else ""
    whole = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in "; ".join(lines[:_MOST]) + more)
    return whole if len(whole) <= _LONGEST else f"{whole[: _LONGEST // 2]} ... {whole[-_LONGEST // 2 :]}"


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
