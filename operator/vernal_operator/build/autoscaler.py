"""The pool's HorizontalPodAutoscaler."""

from typing import Any

from vernal_contract import names

from vernal_operator.api.autoscaling import AutoscalingSpec
from vernal_operator.build.meta import Manifest, Owner, child
from vernal_operator.kinds import AUTOSCALERS

PRESSURE = "vernal_pool_pressure"
"""The pool's own metric, by which it is scaled unless others are named (`metrics_pools`)."""

BEHAVIOR: dict[str, Any] = {
    "scaleUp": {
        "stabilizationWindowSeconds": 0,
        "selectPolicy": "Max",
        "policies": [
            {"type": "Percent", "value": 100, "periodSeconds": 15},
            {"type": "Pods", "value": 4, "periodSeconds": 15},
        ],
    },
    "scaleDown": {
        "stabilizationWindowSeconds": 60,
        "selectPolicy": "Max",
        "policies": [{"type": "Percent", "value": 50, "periodSeconds": 30}],
    },
}
"""For starts of seconds; docs/autoscaling.md says why. All that Kubernetes would fill in is written out, so that its
defaults, which are made for starts of minutes, may change."""


def autoscaler(owner: Owner, spec: AutoscalingSpec) -> Manifest:
    """An autoscaler on the pool's /scale. It leaves a pool alone that has no replicas, and never makes it so."""
    wanted: Manifest = {
        "scaleTargetRef": _pool(owner),
        "minReplicas": max(1, spec.min_replicas),
        "maxReplicas": spec.max_replicas,
        "metrics": spec.metrics or [_pressure(owner, spec.target_pressure_percent)],
        "behavior": spec.behavior if spec.behavior is not None else BEHAVIOR,
    }
    return child(owner, AUTOSCALERS, wanted)


def _pool(owner: Owner) -> Manifest:
    return {"apiVersion": names.API_VERSION, "kind": owner.kind, "name": owner.name}


def _pressure(owner: Owner, percent: int) -> Manifest:
    """Of the pool as an object of the custom metrics API: a ratio over all ready workers, so that one that is asked for
    and not ready yet cannot dilute it."""
    return {
        "type": "Object",
        "object": {
            "describedObject": _pool(owner),
            "metric": {"name": PRESSURE},
            "target": {"type": "Value", "value": f"{percent * 10}m"},
        },
    }
