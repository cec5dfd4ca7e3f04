"""Prometheus metrics of the waker. Times are in seconds."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.process_collector import ProcessCollector

REGISTRY = CollectorRegistry()
"""Its own: the operator's metrics, whose client it uses, are none of the waker's."""
ProcessCollector(registry=REGISTRY)

_STARTS = (0.1, 0.25, 0.5, 1.0, 2.0, 3.0, 5.0, 8.0, 15.0, 30.0, 60.0, 120.0, 300.0, 900.0)

HELD = Gauge("vernal_waker_requests_held", "Requests that wait for a worker.", ["namespace", "pool"], registry=REGISTRY)
HELD_BYTES = Gauge("vernal_waker_held_bytes", "Bytes of requests that are kept.", registry=REGISTRY)
STREAMS = Gauge("vernal_waker_requests_relayed", "Requests whose answers are going through.", registry=REGISTRY)
REQUESTS = Counter(
    "vernal_waker_requests",
    "Requests by what became of them: answered (by a worker), refused (too many or too large), late (no worker in "
    "time), left (held when the waker ended), gone (the client, while it was held), broken (the worker, while it "
    "answered), probe (of the server, while there is none), malformed (no HTTP), failed.",
    ["outcome"],
    registry=REGISTRY,
)
CUT = Counter(
    "vernal_waker_connections_closed",
    "Connections that the waker cut: Refused (as many are open as may be), Evicted (idle, for a newcomer), "
    "LargeHeader, SlowReader (took nothing of its answer for minutes).",
    ["reason"],
    registry=REGISTRY,
)
HOLD_SECONDS = Histogram(
    "vernal_waker_hold_seconds", "From a request to the worker that takes it.", buckets=_STARTS, registry=REGISTRY
)
WAKES = Counter(
    "vernal_waker_scale_requests",
    "Calls to set a pool's replicas from 0 to 1, by result: woken, awake (it was not at 0), failed.",
    ["result"],
    registry=REGISTRY,
)
SPANS = Counter(
    "vernal_waker_spans",
    "Spans of traced wakes, by what became of them: sent, failed (the collector did not take them), dropped (too many "
    "waited for it).",
    ["result"],
    registry=REGISTRY,
)
WAKE_SECONDS = Histogram(
    "vernal_waker_wake_seconds",
    "From the first request that a pool without workers held to: asked (/scale has answered), endpoint (a worker is "
    "ready), first_byte (of its answer).",
    ["phase"],
    buckets=(0.01, 0.05, *_STARTS),
    registry=REGISTRY,
)
