"""spec.engineArgs: whatever vLLM takes, but for what is Vernal's own (`vernal_contract.engine_args`)."""

from typing import Annotated, Any

from pydantic import AfterValidator, Field
from vernal_contract.engine_args import OWNED, EngineArgumentError, canonical, spellings

from vernal_operator.api.common import Rule

REFUSED = "Refused"
"""What the description of a field begins with that is declared only so that CEL can refuse it."""


def _problem(name: str) -> str:
    return f"spec.engineArgs.{name} cannot be set: {OWNED[name]}"


def _none_is_owned(arguments: dict[str, Any]) -> dict[str, Any]:
    """The worker would refuse the same."""
    try:
        canonical(arguments)
    except EngineArgumentError as error:
        raise ValueError(f"spec.{error}") from error
    return arguments


def _cel(name: str) -> str:
    return f"has(self.{name.replace('-', '__dash__')})"


def _rules() -> list[dict[str, str]]:
    """CEL sees only what the schema declares, so the schema declares what must not be there."""
    return [
        Rule(
            f"!({' || '.join(map(_cel, spellings(name)))})",
            None,
            _problem(name),
            f".{name}",
            "FieldValueForbidden",
        ).schema()
        for name in OWNED
    ]


def _properties() -> dict[str, Any]:
    return {
        spelling: {"description": f"Refused: {why}."} | _type(name)
        for name, why in OWNED.items()
        for spelling in spellings(name)
    }


def _type(name: str) -> dict[str, Any]:
    return {"type": "boolean"} if name == "headless" else {"x-kubernetes-int-or-string": True}


EngineArgs = Annotated[
    dict[str, Any],
    AfterValidator(_none_is_owned),
    Field(
        json_schema_extra={
            "x-kubernetes-preserve-unknown-fields": True,
            "properties": _properties(),
            "x-kubernetes-validations": _rules(),
        }
    ),
]
"""Arguments by name."""
