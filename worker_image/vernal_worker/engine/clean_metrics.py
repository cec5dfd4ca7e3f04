"""Metrics of a process that begins to serve: what happened before, in this pod or in the one that was frozen, is no
news of it."""

import time
from typing import Any

from prometheus_client import REGISTRY, CollectorRegistry, Counter, Histogram, Summary
from prometheus_client.metrics import MetricWrapperBase
from prometheus_client.process_collector import ProcessCollector


def begin(registry: CollectorRegistry = REGISTRY) -> None:
    """Set counters, histograms and summaries to 0, and let the process's start time be that of this process. Gauges
    tell what is, and stay."""
    for collector in list(registry._collector_to_names):
        if isinstance(collector, ProcessCollector):
            # It reads when the machine was booted once, which was before the freeze and on another machine.
            collector._btime = int(time.time() - time.clock_gettime(time.CLOCK_BOOTTIME))
        elif isinstance(collector, MetricWrapperBase):
            labelled: list[Any] = list(getattr(collector, "_metrics", {}).values())
            for metric in labelled if collector._labelnames else [collector]:
                _zero(metric)


def _zero(metric: MetricWrapperBase) -> None:
    match metric:
        case Counter():
            metric.reset()
        case Histogram():
            metric._sum.set(0)
            for bucket in metric._buckets:
                bucket.set(0)
            metric._created = time.time()
        case Summary():
            metric._count.set(0)
            metric._sum.set(0)
            metric._created = time.time()
