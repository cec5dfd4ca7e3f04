"""How loaded each pool is, in Prometheus' form; what its status says is `inventory`'s.

Read from the caches at each scrape, so that a pool that is gone leaves nothing behind, and an operator that stands by
tells of none.
"""

import threading
import time
from collections.abc import Collection, Iterable, Iterator, Mapping
from statistics import fmean

from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector
from vernal_contract.state import Load, WorkerState

from vernal_operator.observe.cache import Entry
from vernal_operator.observe.observer import Observer
from vernal_operator.observe.views import SeenPod
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
_COUNTERS = {
    "vernal_pool_generation_tokens": "Tokens that workers generated since this operator leads.",
    "vernal_pool_first_tokens": "Requests that got their first token since then.",
    "vernal_pool_first_token_seconds": "That these waited for it, together.",
}


class PoolMetrics(Collector):
    """Register it with a registry."""

    def __init__(self, observer: Observer, workers: Workers) -> None:
        self._observer, self._workers = observer, workers

        self._growth: dict[str, Growth] = {}
        self._lock = threading.Lock()

    def describe(self) -> Iterable[Metric]:
        return list(_families().values())

    def collect(self) -> Iterator[Metric]:
        families = _families()
        now = time.time()
        with self._lock:
            scaled = [e for e in self._observer.pools.entries() if e.view.spec and e.view.spec.autoscaling]
            self._growth = {entry.uid: self._growth.get(entry.uid, Growth()) for entry in scaled}
            for entry in scaled:
                for name, value in self._of(entry.view, now).items():
                    families[name].add_metric((entry.namespace, entry.name), value)
        yield from families.values()

    def _of(self, pool: Pool, now: float) -> dict[str, float]:
        pods = list(self._observer.pods.group(pool.namespace, pool.name))
        found = self._answers(pool, pods, now)
        loads = {uid: worker.load for uid, worker in found.items() if worker.load is not None}
        growth = self._growth[pool.uid]
        growth.look({entry.uid for entry in pods}, loads)
        return load_of(found.values()) | dict(zip(_COUNTERS, growth.total, strict=True))

    def _answers(self, pool: Pool, pods: Iterable[Entry[SeenPod]], now: float) -> dict[str, WorkerState]:
        found = {}
        for entry in pods:
            view = entry.view.view
            answer = self._workers.answer(entry.uid, view.restarts)
            if view.ready and view.deletion_time is None and entry.owner == pool.uid and answer is not None:
                fresh = answer.answered_at is not None and abs(now - answer.answered_at) <= STALE_SECONDS
                if fresh and answer.worker is not None:
                    found[entry.uid] = answer.worker
        return found


def _families() -> dict[str, GaugeMetricFamily | CounterMetricFamily]:
    gauges = {name: GaugeMetricFamily(name, text, labels=_LABELS) for name, text in _GAUGES.items()}
    return gauges | {name: CounterMetricFamily(name, text, labels=_LABELS) for name, text in _COUNTERS.items()}


class Growth:
    """What a pool's workers have done since the first look. Each counts from its own start, and they come and go: the
    sum of their counts would fall, which Prometheus takes for a new beginning.
    """

    def __init__(self) -> None:
        self.total = _NOTHING  # as `_COUNTERS`
        self._last: dict[str, tuple[float, ...]] = {}
        self._older: set[str] | None = None  # pods that were there at the first look, and have not answered yet

    def look(self, pods: Collection[str], loads: Mapping[str, Load]) -> None:
        """`pods`: all there are, by uid; `loads`: of those that have answered."""
        older = set(pods) if self._older is None else self._older
        self._last = {pod: last for pod, last in self._last.items() if pod in pods}
        for pod, load in loads.items():
            now = load.generated_tokens, load.first_tokens, load.first_token_seconds
            last = self._last.get(pod, now if pod in older else _NOTHING)
            if now[0] < last[0] or now[1] < last[1]:
                last = _NOTHING  # its container began anew
            grown = (total + max(0.0, new - old) for total, new, old in zip(self.total, now, last, strict=True))
            self.total = tuple(grown)
            self._last[pod] = now
        self._older = older & set(pods) - loads.keys()


_NOTHING: tuple[float, ...] = (0.0, 0.0, 0.0)


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
