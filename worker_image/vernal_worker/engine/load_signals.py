"""How loaded vLLM is, from its own gauges, in numbers that need no knowledge of the model."""

from typing import Any, TypeVar

from prometheus_client import REGISTRY, CollectorRegistry, Counter, Gauge, Histogram

from vernal_worker.control.protocol import Load

_Metric = TypeVar("_Metric", Counter, Gauge, Histogram)
RUNNING = "vllm:num_requests_running"
WAITING = "vllm:num_requests_waiting"
KV_USAGE = "vllm:kv_cache_usage_perc"  # a ratio, whatever its name says
TOKENS = "vllm:generation_tokens"
FIRST = "vllm:time_to_first_token_seconds"
_OF_REQUESTS = (RUNNING, WAITING, "vllm:num_requests_waiting_by_reason", KV_USAGE)


def settle(registry: CollectorRegistry = REGISTRY) -> None:
    """Call when nothing is unfinished: lets vLLM's gauges of requests say so.

    vLLM sets them after each step of its scheduler, and there is no step after the last client has gone away: they
    would tell of that client until the next one comes (vllm-project/vllm issue 29928).
    """
    for name in _OF_REQUESTS:
        for gauge in _gauges(registry, name):
            gauge.set(0)


def load(in_flight: int, places: int, idle_seconds: float, registry: CollectorRegistry = REGISTRY) -> Load:
    """How much there is to do.

    Args:
        in_flight: requests that were accepted and not answered.
        places: requests that the engine works on at once, at most.
    """
    running, waiting, usages = (
        [gauge._value.get() for gauge in _gauges(registry, name)] for name in (RUNNING, WAITING, KV_USAGE)
    )
    usage = max(usages, default=0.0)  # of data-parallel engines, the fullest
    waits = _children(registry, FIRST, Histogram)
    return Load(
        running=int(sum(running)),
        waiting=int(sum(waiting)),
        kv_usage=round(usage, 4),
        pressure=round(pressure(in_flight, places, int(sum(running)), usage), 4),
        idle_seconds=round(idle_seconds, 3),
        generated_tokens=int(sum(counter._value.get() for counter in _children(registry, TOKENS, Counter))),
        first_tokens=int(sum(bucket.get() for wait in waits for bucket in wait._buckets)),
        first_token_seconds=round(sum(wait._sum.get() for wait in waits), 3),
    )


def pressure(in_flight: int, places: int, running: int, kv_usage: float) -> float:
    """Requests in flight over what the engine can hold: 0 is idle, 1 is full, and above it some wait.

    The engine holds two things: requests (`places`), and their KV cache. What all requests in flight would use of that
    is taken to be, for each, what those that run use on average. The scarcer of the two counts.
    """
    by_places = in_flight / places if places else 0.0
    by_memory = kv_usage * in_flight / running if running else 0.0
    return max(by_places, by_memory)


def _gauges(registry: CollectorRegistry, name: str) -> list[Gauge]:
    return _children(registry, name, Gauge)


def _children(registry: CollectorRegistry, name: str, kind: type[_Metric]) -> list[_Metric]:
    """All children of a metric; none where vLLM keeps no statistics."""
    found = registry._names_to_collectors.get(name)
    if not isinstance(found, kind):
        return []
    children: list[Any] = list(found._metrics.values())
    return children if found._labelnames else [found]
