"""`spec.env`: variables of the engine's environment, and which of them may come from a Secret or a ConfigMap."""

import json
import re
from typing import ClassVar

from pydantic import Field
from vernal_contract.variables import KEPT, NEVER, TUNING, shapes

from vernal_operator.api.common import Model, Rule
from vernal_operator.api.overlay import LOADED
from vernal_operator.api.references import KeyRef


class EnvSource(Model):
    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "has(self.secretKeyRef) != has(self.configMapKeyRef)",
            lambda self: (self.secret_key_ref is None) != (self.config_map_key_ref is None),
            "spec.env[].valueFrom needs exactly one of secretKeyRef and configMapKeyRef",
        ),
    )
    secret_key_ref: KeyRef | None = Field(default=None, description="A key of a Secret.")
    config_map_key_ref: KeyRef | None = Field(default=None, description="A key of a ConfigMap.")


_SHAPES = (
    f"(self.name.matches('^({'|'.join(TUNING)})') || self.name in {json.dumps(sorted(KEPT))}) "
    f"&& !(self.name in {json.dumps(sorted(NEVER))})"
)
"""`shapes` of an environment variable, in CEL."""


class EnvVar(Model):
    """A variable of the engine's environment."""

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "has(self.value) != has(self.valueFrom)",
            lambda self: (self.value is None) != (self.value_from is None),
            "spec.env[] needs exactly one of value and valueFrom",
        ),
        Rule(
            "!self.name.startsWith('VERNAL_')",
            lambda self: not self.name.startswith("VERNAL_"),
            "spec.env[].name must not start with VERNAL_, which Vernal uses",
            ".name",
        ),
        Rule(
            f"!has(self.valueFrom) || !self.name.matches('{LOADED}')",
            lambda self: self.value_from is None or re.search(LOADED, self.name) is None,
            "spec.env[].name is one that would choose what process 1 runs, which gets what has valueFrom: use value",
            ".name",
        ),
        Rule(
            f"!has(self.valueFrom) || !({_SHAPES})",
            lambda self: self.value_from is None or not shapes(self.name),
            "spec.env[].valueFrom cannot be set for a name that shapes the engine (such as "
            f"{', '.join(f'{prefix}*' for prefix in TUNING)}): it would get the value only after the thaw, and a "
            "checkpoint would not be told apart by it: use value",
            ".valueFrom",
            "FieldValueForbidden",
        ),
    )
    name: str = Field(pattern="^[A-Za-z_][A-Za-z0-9_]*$", max_length=253, description="Name of the variable.")
    value: str | None = Field(
        default=None,
        description="Literal value. It counts towards the checkpoint's identity and is in the frozen "
        "process: never write a secret here.",
    )
    value_from: EnvSource | None = Field(
        default=None,
        description="Take the value from a Secret or a ConfigMap. It reaches the engine after the thaw and "
        "is never in a checkpoint, so not for what shapes the engine, such as VLLM_* and NCCL_* (but VLLM_API_KEY "
        "and HF_TOKEN).",
    )
