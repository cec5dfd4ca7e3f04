"""What the models of both kinds share: the base class, rules, and the annotations that carry Kubernetes'
extensions.
"""

from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal
from typing import Annotated, Any, ClassVar, Self

from kubernetes.utils.quantity import parse_quantity
from pydantic import BaseModel, ConfigDict, Field, model_validator
from pydantic.alias_generators import to_camel


@dataclass(frozen=True, slots=True)
class Rule:
    """One rule in two languages: CEL for the API server, Python for objects that were stored before the rule
    was.

    Attributes:
        cel: the expression of `x-kubernetes-validations`; `self` is the object that the model describes.
        check: the same in Python; None where it compares with the old object and so cannot be broken by one
            alone.
        message: names the field, from `spec` on.
        field_path: of the culprit, relative to the object, e.g. ".storage".
        reason: one of the API's: FieldValueInvalid, FieldValueRequired, FieldValueForbidden,
            FieldValueDuplicate.
    """

    cel: str
    check: Callable[[Any], bool] | None
    message: str
    field_path: str = ""
    reason: str = "FieldValueInvalid"

    def schema(self) -> dict[str, str]:
        entry = {"rule": self.cel, "message": self.message, "reason": self.reason}
        return entry | ({"fieldPath": self.field_path} if self.field_path else {})


class Model(BaseModel):
    """Base of every object in a spec.

    Unknown fields are ignored when read, so that an operator can read what a newer one's schema let in; it is
    the API server that refuses them (strict field validation) or drops them.
    """

    model_config = ConfigDict(
        alias_generator=to_camel,
        validate_by_name=True,
        validate_by_alias=True,
        frozen=True,
        extra="ignore",
        validate_default=True,
    )  # validate_default: defaults of nested objects are written as in the schema, e.g. {}
    rules: ClassVar[tuple[Rule, ...]] = ()

    @model_validator(mode="after")
    def _rules_hold(self) -> Self:
        for rule in self.rules:
            if rule.check is not None and not rule.check(self):
                raise ValueError(rule.message)
        return self


def extension(**values: Any) -> Any:
    """Schema extensions of Kubernetes, e.g. `extension(list_type="map")` for `x-kubernetes-list-type:
    map`.
    """
    return Field(json_schema_extra={f"x-kubernetes-{name.replace('_', '-')}": v for name, v in values.items()})


def nested(description: str, default: Any = None) -> Any:
    """A field that holds another model and has a default, written as in the schema: `{}` unless given."""
    return Field(default=default or {}, description=description)


FreeForm = Annotated[dict[str, Any], extension(preserve_unknown_fields=True)]
"""An object whose fields are somebody else's to define."""

_EXPONENT = r"[eE][+-]?[0-9]{1,2}"  # as a number, 1e999999999 would fill any memory
_QUANTITY = rf"^\+?([0-9]+(\.[0-9]*)?|\.[0-9]+)([KMGTPE]i|[numkMGTPE]|{_EXPONENT})?$"
Quantity = Annotated[
    Annotated[int, Field(ge=0)] | Annotated[str, Field(pattern=_QUANTITY, max_length=64)],
    extension(int_or_string=True),
]
"""A Kubernetes quantity such as 2, 500m or 8Gi."""


def whole(quantity: int | str) -> int:
    """A `Quantity` as a number, rounded down."""
    return int(exact(quantity))


def exact(quantity: int | str) -> Decimal:
    """A `Quantity` as a number. Raises: ValueError: it is none."""
    return Decimal(parse_quantity(quantity))


Seconds = Annotated[int, Field(le=10 * 366 * 86400)]
"""A duration: ten years at most, so that sums of several are numbers that Kubernetes takes (int32)."""

CountOrPercent = Annotated[
    Annotated[int, Field(ge=0)] | Annotated[str, Field(pattern="^(0|[1-9][0-9]{0,4})%$")],
    extension(int_or_string=True),
]
"""A number of pods, or a percentage such as 25%."""


def is_zero(value: int | str) -> bool:
    """Whether a `CountOrPercent` is no pods at all, of however many."""
    return value in (0, "0%")
