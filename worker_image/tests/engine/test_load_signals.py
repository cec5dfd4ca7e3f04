"""What autoscalers are told of an engine's load."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from vernal_worker.engine import load_signals


@pytest.fixture
def registry() -> CollectorRegistry:
    return CollectorRegistry()


def gauge(registry: CollectorRegistry, name: str, *values: float) -> Gauge:
    made = Gauge(name, "x", ["engine"], registry=registry)
    for engine, value in enumerate(values):
        made.labels(str(engine)).set(value)
    return made


def test_vllms_gauges_are_read_over_all_engines(registry: CollectorRegistry) -> None:
    gauge(registry, load_signals.RUNNING, 3, 5)
    gauge(registry, load_signals.WAITING, 1, 0)
    gauge(registry, load_signals.KV_USAGE, 0.2, 0.6)
    found = load_signals.load(9, 64, 0.0, registry)
    assert (found.running, found.waiting, found.kv_usage) == (8, 1, 0.6)
    assert found.pressure == pytest.approx(0.6 * 9 / 8)
    tokens = Counter(load_signals.TOKENS, "x", ["engine"], registry=registry)
    waits = Histogram(load_signals.FIRST, "x", ["engine"], registry=registry, buckets=(0.1, 1.0))
    for engine, seconds in (("0", 0.5), ("1", 0.05), ("1", 7.0)):
        tokens.labels(engine).inc(10)
        waits.labels(engine).observe(seconds)
    found = load_signals.load(9, 64, 0.0, registry)
    assert (found.generated_tokens, found.first_tokens, found.first_token_seconds) == (30, 3, 7.55)


def test_an_engine_without_statistics_is_told_by_requests_alone(registry: CollectorRegistry) -> None:
    found = load_signals.load(8, 16, 0.0, registry)
    assert (found.running, found.waiting, found.kv_usage, found.pressure) == (0, 0, 0.0, 0.5)
    load_signals.settle(registry)  # nothing to do


def test_gauges_that_tell_of_clients_who_left_are_set_back(registry: CollectorRegistry) -> None:
    made = [gauge(registry, name, 7, 7) for name in (load_signals.RUNNING, load_signals.WAITING, load_signals.KV_USAGE)]
    other = gauge(registry, "vllm:engine_sleep_state", 1)
    load_signals.settle(registry)
    assert all(child._value.get() == 0 for one in made for child in one._metrics.values())  # type: ignore[attr-defined]
    assert other.labels("0")._value.get() == 1
    assert load_signals.load(0, 16, 3.5, registry).pressure == 0


counts = st.integers(0, 10_000)


@given(counts, st.integers(1, 4096), counts, st.floats(0, 1))
def test_pressure_grows_with_requests_and_is_nothing_without(
    in_flight: int, places: int, running: int, usage: float
) -> None:
    found = load_signals.pressure(in_flight, places, running, usage)
    assert (found == 0) == (in_flight == 0)
    assert load_signals.pressure(in_flight + 1, places, running, usage) > found
    assert found >= in_flight / places


@given(st.integers(1, 4096), st.floats(0.01, 1))
def test_a_full_engine_is_at_one_by_whichever_is_full(places: int, usage: float) -> None:
    assert load_signals.pressure(places, places, places, usage) >= 1
    assert load_signals.pressure(2, 4096, 2, 1.0) == 1
    assert load_signals.pressure(3, 4096, 2, 1.0) == 1.5  # one waits for memory, though there are places
