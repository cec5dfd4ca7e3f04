"""`spec.resources` and `spec.resourceClaims`: what a worker's container gets of its node."""

from typing import Annotated, ClassVar

from pydantic import Field

from vernal_operator.api.common import Model, Quantity, Rule, extension


class ResourceClaimUse(Model):
    name: str = Field(min_length=1, description="Name of an entry of spec.resourceClaims.")
    request: str | None = Field(default=None, description="One request of that claim; all of them by default.")


class Resources(Model):
    """Compute resources of the worker's container, as in a Pod."""

    limits: dict[str, Quantity] = Field(default={}, description="Upper bounds, e.g. nvidia.com/gpu: 1.")
    requests: dict[str, Quantity] = Field(default={}, description="What the scheduler sets aside.")
    claims: Annotated[list[ResourceClaimUse], extension(list_type="map", list_map_keys=["name"])] = Field(
        default=[],
        description="Entries of spec.resourceClaims that the container uses (dynamic resource allocation).",
    )


class ResourceClaim(Model):
    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "has(self.resourceClaimName) != has(self.resourceClaimTemplateName)",
            lambda self: (self.resource_claim_name is None) != (self.resource_claim_template_name is None),
            "spec.resourceClaims[] needs exactly one of resourceClaimName and resourceClaimTemplateName",
        ),
    )
    name: str = Field(min_length=1, max_length=63, description="Name that spec.resources.claims refers to.")
    resource_claim_name: str | None = Field(default=None, description="A ResourceClaim that all pods share.")
    resource_claim_template_name: str | None = Field(
        default=None, description="A ResourceClaimTemplate: each pod gets a claim of its own."
    )
