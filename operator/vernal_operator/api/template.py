"""spec.podTemplate: an overlay for all that the pool has no field for.

The schema preserves what it does not know, so it is the chart's ValidatingAdmissionPolicy that refuses what an overlay
must not hold. Where that is not installed, the operator does, when it reads a pool: the condition `Degraded` with
reason `InvalidSpec` then holds the message.
"""

import re
from typing import Any

from pydantic import Field, field_validator

from vernal_operator.api.common import FreeForm, Model, nested
from vernal_operator.api.overlay import ANNOTATIONS, OURS, problems


class PodTemplateMetadata(Model):
    labels: dict[str, str] = Field(default={}, description="Labels added to each pod; none of vernal.dev/.")
    annotations: dict[str, str] = Field(default={}, description="Annotations added to each pod; none of vernal.dev/.")

    @field_validator("labels")
    @classmethod
    def _no_label_of_ours(cls, value: dict[str, str]) -> dict[str, str]:
        return _without(value, OURS)

    @field_validator("annotations")
    @classmethod
    def _no_orders(cls, value: dict[str, str]) -> dict[str, str]:
        return _without(value, ANNOTATIONS)


def _without(value: dict[str, str], refused: dict[str, str]) -> dict[str, str]:
    for key in value:
        for pattern, why in refused.items():
            if re.search(pattern, key):
                raise ValueError(f"{key} cannot be set: {why}")
    return value


class PodTemplate(Model):
    """An overlay for all that the pool has no field for."""

    metadata: PodTemplateMetadata = nested("Labels and annotations.")
    spec: FreeForm = Field(
        default={},
        description="Fields of a PodSpec, laid over the pod that Vernal builds: objects are merged field by "
        "field (null removes a field), lists of containers, volumes, env and the like are merged by name, "
        "volumeMounts by mountPath, any other list is replaced. The worker's container is named worker. "
        "Only fields of an allowlist may be set (the user guide has it): none that would give the pool's creator "
        "the node or other people's rights.",
    )

    @field_validator("spec")
    @classmethod
    def _harmless(cls, value: dict[str, Any]) -> dict[str, Any]:
        found = list(problems(value))
        if found:
            raise ValueError("; ".join(found))
        return value
