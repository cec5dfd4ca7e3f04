"""Metrics about pools and checkpoints, made from the caches when Prometheus asks: what is gone is exported no more.

Only the operator that leads has caches, so of several operators one exports these. Labels are the object's namespace
and name; of a condition its type and reason, too, one series for each condition.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from vernal_operator.observe.observer import Observer
from vernal_operator.plan.model import CheckpointView, Pool

_CONDITION = "1 while the condition holds, 0 while it does not; reason is why."
_POOL: tuple[tuple[str, str, str], ...] = (
    ("replicas", "replicas", "Pods that are neither terminating nor failed."),
    ("ready_replicas", "readyReplicas", "Pods that are ready."),
    ("updated_replicas", "updatedReplicas", "Pods of the revision that the spec asks for."),
    ("restored_replicas", "restoredReplicas", "Ready pods that thawed a checkpoint."),
    ("cold_started_replicas", "coldStartedReplicas", "Ready pods that started the slow way."),
)  # name, field of the status, help
_CHECKPOINT: tuple[tuple[type[GaugeMetricFamily] | type[CounterMetricFamily], str, str, str], ...] = (
    (GaugeMetricFamily, "size_bytes", "sizeBytes", "Size of the checkpoint's files."),
    (GaugeMetricFamily, "warm_nodes", "warmNodes", "Nodes whose cache had all its files, as last known."),
    (GaugeMetricFamily, "shared_bytes", "sharedBytes", "How much of it other checkpoints have too."),
    (CounterMetricFamily, "restores", "restores", "Workers that thawed it."),
    (CounterMetricFamily, "restore_failures", "restoreFailures", "Thaws of it that failed."),
)


class Inventory(Collector):
    """What the leading operator knows of pools and checkpoints."""

    def __init__(self, observer: Observer) -> None:
        self._observer = observer

    def describe(self) -> Iterable[Metric]:
        """Nothing, so that registering does not collect."""
        return ()

    def collect(self) -> Iterator[Metric]:
        pools = [entry.view for entry in self._observer.pools.entries()]
        checkpoints = [entry.view for entry in self._observer.checkpoints.entries()]
        labels = ("namespace", "pool")
        desired = GaugeMetricFamily("vernal_pool_desired_replicas", "Pods that spec.replicas asks for.", labels=labels)
        for pool in pools:
            wanted = pool.asked if pool.spec is None else pool.spec.replicas
            if wanted is not None:
                desired.add_metric((pool.namespace, pool.name), wanted)
        yield desired
        for name, field, text in _POOL:
            yield _filled(GaugeMetricFamily(f"vernal_pool_{name}", text, labels=labels), pools, field)
        yield _conditions("vernal_pool_condition", labels, pools)
        labels = ("namespace", "checkpoint")
        for family, name, field, text in _CHECKPOINT:
            yield _filled(family(f"vernal_checkpoint_{name}", text, labels=labels), checkpoints, field)
        yield _conditions("vernal_checkpoint_condition", labels, checkpoints)


def _filled(
    family: GaugeMetricFamily | CounterMetricFamily, objects: Sequence[Pool | CheckpointView], field: str
) -> Metric:
    """A missing field reads as 0, so that a counter is there before it first grows."""
    add: Callable[..., None] = family.add_metric
    for one in objects:
        value = one.status.get(field, 0)
        if isinstance(value, int | float):
            add((one.namespace, one.name), value)
    return family


def _conditions(name: str, labels: Sequence[str], objects: Sequence[Pool | CheckpointView]) -> Metric:
    family = GaugeMetricFamily(name, _CONDITION, labels=(*labels, "type", "reason"))
    for one in objects:
        conditions: Iterable[Mapping[str, Any]] = one.status.get("conditions") or ()
        for condition in conditions:
            key = (one.namespace, one.name, str(condition.get("type")), str(condition.get("reason")))
            family.add_metric(key, int(condition.get("status") == "True"))
    return family
