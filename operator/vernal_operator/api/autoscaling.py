"""`spec.autoscaling`: who sets a pool's replicas, by which metric, and whether it may go to zero."""

from enum import StrEnum
from typing import ClassVar

from pydantic import Field

from vernal_operator.api.common import FreeForm, Model, Rule, Seconds


class Autoscaler(StrEnum):
    """Who sets replicas while there are any."""

    HPA = "HPA"
    EXTERNAL = "External"


class AutoscalingSpec(Model):
    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "!has(self.maxReplicas) || self.minReplicas <= self.maxReplicas",
            lambda self: self.max_replicas is None or self.min_replicas <= self.max_replicas,
            "spec.autoscaling.minReplicas must not be greater than spec.autoscaling.maxReplicas",
            ".minReplicas",
        ),
        Rule(
            "self.autoscaler != 'HPA' || has(self.maxReplicas)",
            lambda self: self.autoscaler is not Autoscaler.HPA or self.max_replicas is not None,
            "spec.autoscaling.maxReplicas is required unless spec.autoscaling.autoscaler is External",
            ".maxReplicas",
            "FieldValueRequired",
        ),
        Rule(
            "!has(self.idleSeconds) || self.minReplicas == 0",
            lambda self: self.idle_seconds is None or self.min_replicas == 0,
            "spec.autoscaling.idleSeconds is only for spec.autoscaling.minReplicas 0",
            ".idleSeconds",
            "FieldValueForbidden",
        ),
        Rule(
            "self.minReplicas != 0 || self.autoscaler != 'HPA' || has(self.idleSeconds)",
            lambda self: (
                self.min_replicas != 0 or self.autoscaler is not Autoscaler.HPA or self.idle_seconds is not None
            ),
            "spec.autoscaling.idleSeconds is required for spec.autoscaling.minReplicas 0, unless "
            "spec.autoscaling.autoscaler is External and goes to zero itself",
            ".idleSeconds",
            "FieldValueRequired",
        ),
    )
    autoscaler: Autoscaler = Field(
        default=Autoscaler.HPA,
        description="HPA: the operator keeps a HorizontalPodAutoscaler. External: somebody else sets replicas through "
        "/scale, KEDA say; the operator makes no HorizontalPodAutoscaler.",
    )
    min_replicas: int = Field(
        default=1,
        ge=0,
        description="Fewest replicas. 0: without a worker the pool's Service leads to the waker of the chart, which "
        "holds requests and asks for a worker; an HPA is given 1.",
    )
    max_replicas: int | None = Field(default=None, ge=1, description="Most replicas of the HPA.")
    idle_seconds: Seconds | None = Field(
        default=None,
        ge=1,
        description="How long no worker has had a request when the pool goes to zero. Seconds. External and unset: the "
        "operator never does it.",
    )
    target_pressure_percent: int = Field(
        default=80,
        ge=1,
        le=1000,
        description="How full workers are to be, by vernal_pool_pressure, where metrics names no metric. At 100 "
        "they are full; above it, requests wait.",
    )
    metrics: list[FreeForm] = Field(
        default=[],
        description="MetricSpecs of autoscaling/v2 for the HPA, instead of the pool's pressure.",
    )
    behavior: FreeForm | None = Field(
        default=None,
        description="HorizontalPodAutoscalerBehavior of autoscaling/v2, instead of one that is made for starts of "
        "seconds (docs/autoscaling.md).",
    )
