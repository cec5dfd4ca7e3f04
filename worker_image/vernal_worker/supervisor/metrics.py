"""The worker's own metrics, in Prometheus' text format. Imported when the first scrape comes: it is not
cheap."""

from collections.abc import Iterator

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily, Metric
from prometheus_client.registry import Collector
from vernal_contract.state import NodeCacheReport, Phase, WorkerState

from vernal_worker import threads


class _Collector(Collector):
    def __init__(self, state: WorkerState) -> None:
        self._state = state

    def collect(self) -> Iterator[Metric]:
        state = self._state
        start = InfoMetricFamily("vernal_worker_start", "How this worker started, and why so.")
        start.add_metric([], {"mode": str(state.start_mode or ""), "reason": state.start_reason or ""})
        yield start
        freeze = InfoMetricFamily("vernal_worker_freeze", "What became of the checkpoint that this worker was to make.")
        if state.freeze is not None:
            freeze.add_metric([], {"outcome": str(state.freeze.outcome), "reason": state.freeze.reason or ""})
        yield freeze
        steps = {name: value for name, value in sorted(state.timings.items()) if name != "total"}
        if total := state.timings.get("total"):
            yield GaugeMetricFamily("vernal_worker_start_seconds", "Seconds from the start to ready.", value=total)
        seconds = GaugeMetricFamily("vernal_worker_phase_seconds", "Seconds that a step took.", labels=["phase"])
        for name, value in steps.items():
            seconds.add_metric([name], value)
        yield seconds
        failures = CounterMetricFamily(
            "vernal_worker_restore_failures",
            "Thaws that did not end in a ready worker.",
            labels=["stage", "reason"],
        )
        counts: dict[tuple[str, str], int] = {}
        for failure in state.restore_failures:
            key = (failure.stage, failure.reason)
            counts[key] = counts.get(key, 0) + 1
        for (stage, reason), count in sorted(counts.items()):
            failures.add_metric([stage, reason], count)
        yield failures
        yield from _node_cache(state.node_cache or NodeCacheReport())
        threads_failed = CounterMetricFamily(
            "vernal_worker_thread_failures",
            "How often a thread of process 1 failed and began again.",
            labels=["thread"],
        )
        for name, count in sorted(threads.failures.items()):
            threads_failed.add_metric([name], count)
        yield threads_failed
        yield GaugeMetricFamily("vernal_worker_ready", "1 while requests are welcome.", value=int(state.ready))
        draining = state.phase is Phase.DRAINING
        yield GaugeMetricFamily("vernal_worker_draining", "1 while the worker drains.", value=int(draining))
        if state.load is not None or state.phase not in (Phase.READY, Phase.DRAINING):  # else the engine is silent
            what = "Requests being answered."
            yield GaugeMetricFamily("vernal_worker_requests_in_flight", what, value=state.in_flight)
        yield CounterMetricFamily("vernal_worker_requests_accepted", "Requests let in.", value=state.accepted_total)
        if (load := state.load) is not None:
            for name, what, value in (
                ("requests_running", "Requests that the engine works on.", load.running),
                ("requests_waiting", "Requests that the engine has not begun, for want of room.", load.waiting),
                ("kv_usage_ratio", "Part of the KV cache that is in use.", load.kv_usage),
                ("pressure", "Requests in flight over what the engine can hold.", load.pressure),
                ("idle_seconds", "Since the last request ended; 0 while one is in flight.", load.idle_seconds),
            ):
                yield GaugeMetricFamily(f"vernal_worker_{name}", what, value=value)
        aborted = state.drain.aborted if state.drain is not None else 0
        yield CounterMetricFamily("vernal_worker_requests_aborted", "Requests ended early by a drain.", value=aborted)
        if state.drain is not None:
            yield GaugeMetricFamily(
                "vernal_worker_drain_remaining_seconds",
                "Seconds until requests are aborted.",
                value=state.drain.seconds_left,
            )


def _node_cache(report: NodeCacheReport) -> Iterator[Metric]:
    """Of this start, which looks once: a sum over workers tells the rate of hits."""
    lookups = CounterMetricFamily(
        "vernal_worker_node_cache_lookups", "Checkpoints that were looked for in the node cache.", labels=["result"]
    )
    if report.lookup is not None:
        lookups.add_metric([report.lookup], 1)
    yield lookups
    fills = CounterMetricFamily(
        "vernal_worker_node_cache_fills", "Checkpoints that the node cache was to get.", labels=["result"]
    )
    if report.fill is not None:
        fills.add_metric([report.fill], 1)
    yield fills
    moved = CounterMetricFamily(
        "vernal_worker_node_cache_bytes", "Bytes of files, by what became of them in the node cache.", labels=["result"]
    )
    for result, count in (("Thawed", report.bytes), ("Filled", report.filled_bytes), ("Evicted", report.evicted_bytes)):
        moved.add_metric([result], count)
    yield moved
    seconds = GaugeMetricFamily(
        "vernal_worker_node_cache_seconds", "Seconds that a step with the node cache took.", labels=["phase"]
    )
    for phase, value in (("lookup", report.lookup_seconds), ("fill", report.fill_seconds)):
        if value:
            seconds.add_metric([phase], value)
    yield seconds


def text(state: WorkerState) -> str:
    registry = CollectorRegistry()
    registry.register(_Collector(state))
    return generate_latest(registry).decode()
