"""`spec.model`: which model the workers serve, and where its files come from."""

from typing import ClassVar

from pydantic import Field

from vernal_operator.api.common import Model, Rule, nested
from vernal_operator.api.references import inside_rule, own_rule


class HubSource(Model):
    """vLLM downloads the model, or finds it where the image keeps it."""


class ClaimSource(Model):
    """A PersistentVolumeClaim that holds the model, mounted read-only."""

    rules: ClassVar[tuple[Rule, ...]] = (
        inside_rule("path", lambda self: self.path),
        own_rule("claimName", "PersistentVolumeClaim", lambda self: self.claim_name),
    )
    claim_name: str = Field(
        min_length=1, max_length=253, description="Name of a PersistentVolumeClaim in the pool's namespace."
    )
    path: str = Field(
        default="",
        max_length=1024,
        description="Directory of the model inside the claim; its root by default.",
    )


class ImageSource(Model):
    """A directory of the worker image that holds the model."""

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "!self.path.split('/').exists(part, part == '..')",
            lambda self: ".." not in self.path.split("/"),
            "path must be without '..'",
            ".path",
        ),
    )
    path: str = Field(pattern="^/", max_length=1024, description="Absolute path of the model's directory in the image.")


class ModelSource(Model):
    """Exactly one of hub, claim and image."""

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "[has(self.hub), has(self.claim), has(self.image)].filter(x, x).size() == 1",
            lambda self: [self.hub, self.claim, self.image].count(None) == 2,
            "spec.model.source needs exactly one of hub, claim and image",
        ),
    )
    hub: HubSource | None = Field(default=None, description="vLLM downloads spec.model.name itself.")
    claim: ClaimSource | None = Field(
        default=None, description="The model lies on a PersistentVolumeClaim, which is mounted read-only."
    )
    image: ImageSource | None = Field(default=None, description="The model lies in the worker image.")


class ModelSpec(Model):
    name: str = Field(
        min_length=1, description="Name of the model, as vLLM's --model takes it and as requests name it."
    )
    revision: str | None = Field(
        default=None, description="Commit or tag of the model. Part of the checkpoint's identity: pin it."
    )
    source: ModelSource = nested("Where the model's files come from.", {"hub": {}})
