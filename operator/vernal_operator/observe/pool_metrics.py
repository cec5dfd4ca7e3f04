"""How loaded each pool is, in Prometheus' form; what its status says is `inventory`'s.

Read from the caches at each scrape, so that a pool that is gone leaves nothing behind, and an operator that stands by
tells of none.
"""

import time
from collections.abc import Iterable, Iterator
from statistics import fmean

from prometheus_client.metrics_core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector
from vernal_contract.state import Load, WorkerState

from vernal_operator.observe.observer import Observer
from vernal_operator.observe.workers import Workers
from vernal_operator.plan.model import Pool

STALE_SECONDS = 30.0
"""A worker that has not answered for so long says nothing about now."""

_LABELS = ("namespace", "pool")
_GAUGES = {
    "vernal_pool_pressure": "Requests in flight over what the ready workers can hold. Of pools with spec.autoscaling, "
    "like all the others here; absent while no worker is ready.",
    "vernal_pool_requests_in_flight": "Requests that workers accepted and did not answer yet.",
    "vernal_pool_requests_running": "Of these, what engines work on.",
    "vernal_pool_requests_waiting": "Of these, what engines have not begun, for want of room.",
    "vernal_pool_kv_usage_ratio": "Part of the KV cache that is in use, the mean over ready workers.",
    "vernal_pool_idle_seconds": "Since any worker last had a request.",
}


class PoolMetrics(Collector):
    """Register it with a registry."""

    def __init__(self, observer: Observer, workers: Workers) -> None:
        self._observer, self._workers = observer, workers

    def describe(self) -> Iterable[Metric]:
        return [GaugeMetricFamily(name, text, labels=_LABELS) for name, text in _GAUGES.items()]

    def collect(self) -> Iterator[Metric]:
        families = {name: GaugeMetricFamily(name, text, labels=_LABELS) for name, text in _GAUGES.items()}
        now = time.time()
        for entry in self._observer.pools.entries():
            for name, value in self._of(entry.view, now).items():
                families[name].add_metric((entry.namespace, entry.name), value)
        yield from families.values()

    def _of(self, pool: Pool, now: float) -> dict[str, float]:
        if pool.spec is None or pool.spec.autoscaling is None:
            return {}
        return load_of(self._answers(pool, now))

    def _answers(self, pool: Pool, now: float) -> Iterator[WorkerState]:
        for entry in self._observer.pods.group(pool.namespace, pool.name):
            view = entry.view.view
            answer = self._workers.answer(entry.uid, view.restarts)
            if view.ready and view.deletion_time is None and entry.owner == pool.uid and answer is not None:
                fresh = answer.answered_at is not None and abs(now - answer.answered_at) <= STALE_SECONDS
                if fresh and answer.worker is not None:
                    yield answer.worker


def load_of(workers: Iterable[WorkerState]) -> dict[str, float]:
    """A pool's load from its ready workers'. They are alike, so the mean of their pressures is the pool's."""
    told: list[tuple[int, Load]] = [(w.in_flight, w.load) for w in workers if w.load is not None]
    if not told:
        return {}
    loads = [load for _, load in told]
    return {
        "vernal_pool_pressure": fmean(load.pressure for load in loads),
        "vernal_pool_requests_in_flight": sum(in_flight for in_flight, _ in told),
        "vernal_pool_requests_running": sum(load.running for load in loads),
        "vernal_pool_requests_waiting": sum(load.waiting for load in loads),
        "vernal_pool_kv_usage_ratio": fmean(load.kv_usage for load in loads),
        "vernal_pool_idle_seconds": min(load.idle_seconds for load in loads),
    }
