"""What a pool refers to: objects of its own namespace by name, and directories below a claim's root."""

import re
from collections.abc import Callable
from typing import Any, ClassVar

from pydantic import Field

from vernal_operator.api.common import Model, Rule


def _inside(path: str) -> bool:
    return not path.startswith("/") and ".." not in path.split("/")


def inside_rule(field: str, get: Callable[[Any], str]) -> Rule:
    return Rule(
        f"!self.{field}.startsWith('/') && !self.{field}.split('/').exists(part, part == '..')",
        lambda self: _inside(get(self)),
        f"{field} must be relative to the claim's root, without '..'",
        f".{field}",
    )


_OWN_NAME = "^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$"


def own_rule(field: str, kind: str, get: Callable[[Any], str | None], *, optional: bool = False) -> Rule:
    """Of a name: what is not one could be taken for a way to somewhere else."""
    return Rule(
        (f"!has(self.{field}) || " if optional else "") + f"self.{field}.matches('{_OWN_NAME}')",
        lambda self: (name := get(self)) is None or re.search(_OWN_NAME, name) is not None,
        f"{field} must be the name of a {kind} in the pool's own namespace: lower-case letters, digits, '-' and '.'",
        f".{field}",
    )


class KeyRef(Model):
    rules: ClassVar[tuple[Rule, ...]] = (own_rule("name", "Secret or ConfigMap", lambda self: self.name),)
    name: str = Field(min_length=1, max_length=253, description="Name of the object in the pool's namespace.")
    key: str = Field(min_length=1, description="Key inside the object.")
    optional: bool = Field(default=False, description="Start without the variable if the object or key is missing.")


class SecretKey(Model):
    rules: ClassVar[tuple[Rule, ...]] = (own_rule("name", "Secret", lambda self: self.name),)
    name: str = Field(min_length=1, max_length=253, description="Name of the Secret in the pool's namespace.")
    key: str = Field(min_length=1, description="Key inside the Secret.")


class SecretRef(Model):
    rules: ClassVar[tuple[Rule, ...]] = (own_rule("name", "Secret", lambda self: self.name),)
    name: str = Field(min_length=1, max_length=253, description="Name of the Secret in the pool's namespace.")
