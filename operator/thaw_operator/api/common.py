"""What the models of both kinds share: the base class and the annotations that carry Kubernetes' schema extensions."""

from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field
from pydantic.alias_generators import to_camel


@dataclass(frozen=True, slots=True)
class Rule:
    """A CEL rule (`x-kubernetes-validations`). `message` names the field; `field_path` is relative to the object."""

    rule: str
    message: str
    field_path: str = ""
    reason: str = "FieldValueInvalid"

    def schema(self) -> dict[str, Any]:
        entry = {"rule": self.rule, "message": self.message, "reason": self.reason}
        return entry | ({"fieldPath": self.field_path} if self.field_path else {})


class Model(BaseModel):
    """Base of every object in a spec.

    Unknown fields are ignored when read, so that an operator can read what a newer one's schema let in; it is the API
    server that refuses them (strict field validation) or drops them.
    """

    model_config = ConfigDict(
        alias_generator=to_camel, validate_by_name=True, validate_by_alias=True, frozen=True, extra="ignore"
    )


def extension(**values: Any) -> Any:
    """Schema extensions of Kubernetes, e.g. `extension(list_type="map")` for `x-kubernetes-list-type: map`."""
    return Field(json_schema_extra={f"x-kubernetes-{name.replace('_', '-')}": v for name, v in values.items()})


FreeForm = Annotated[dict[str, Any], extension(preserve_unknown_fields=True)]
"""An object whose fields are somebody else's to define."""

QUANTITY_PATTERN = r"^(\+|-)?(([0-9]+(\.[0-9]*)?)|(\.[0-9]+))(([KMGTPE]i)|[numkMGTPE]|([eE](\+|-)?(([0-9]+(\.[0-9]*)?)|(\.[0-9]+))))?$"
Quantity = Annotated[int | str, extension(int_or_string=True), Field(pattern=None)]
"""A Kubernetes quantity such as 2, 500m or 8Gi."""

CountOrPercent = Annotated[int | str, extension(int_or_string=True)]
"""A number of pods, or a percentage such as 25%."""
