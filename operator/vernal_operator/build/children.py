"""The pool's Service, PodDisruptionBudget, HorizontalPodAutoscaler and, for a bucket, CronJob, all named like it."""

from vernal_contract import names

from vernal_operator.api.autoscaling import Autoscaler
from vernal_operator.api.pool import VLLMWorkerPoolSpec
from vernal_operator.build.autoscaler import autoscaler
from vernal_operator.build.collector import collector
from vernal_operator.build.meta import Manifest, Owner, child, pod_labels
from vernal_operator.kinds import BUDGETS, SERVICES


def children(owner: Owner, spec: VLLMWorkerPoolSpec) -> list[Manifest]:
    """All that the pool should own beside pods."""
    out = [service(owner), disruption_budget(owner, spec)]
    if spec.autoscaling is not None and spec.autoscaling.autoscaler is Autoscaler.HPA:
        out.append(autoscaler(owner, spec.autoscaling))
    if (collecting := collector(owner, spec)) is not None:
        out.append(collecting)
    return out


def service(owner: Owner) -> Manifest:
    """One address for all ready workers; terminating ones get no new connections."""
    port = {
        "name": names.PORT_NAME_SERVING,
        "port": names.PORT_SERVING,
        "targetPort": names.PORT_NAME_SERVING,
        "protocol": "TCP",
    }
    return child(owner, SERVICES, {"type": "ClusterIP", "selector": pod_labels(owner.name), "ports": [port]})


def disruption_budget(owner: Owner, spec: VLLMWorkerPoolSpec) -> Manifest:
    """Pods that are not ready may always be evicted: a node with a broken worker must not be kept from
    draining.
    """
    return child(
        owner,
        BUDGETS,
        {
            "maxUnavailable": spec.disruption_budget.max_unavailable,
            "selector": {"matchLabels": pod_labels(owner.name)},
            "unhealthyPodEvictionPolicy": "AlwaysAllow",
        },
    )
