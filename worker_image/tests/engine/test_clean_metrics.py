"""What a worker counts begins when it begins to serve."""

import time

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Summary, generate_latest
from prometheus_client.process_collector import ProcessCollector
from vernal_worker.engine import clean_metrics


def test_what_was_counted_before_is_forgotten() -> None:
    registry = CollectorRegistry()
    labelled = Counter("requests", "x", ["reason"], registry=registry)
    plain, gauge = Counter("plain", "x", registry=registry), Gauge("gauge", "x", registry=registry)
    histogram = Histogram("seconds", "x", ["model"], registry=registry, buckets=(1.0, 2.0))
    Counter("none_yet", "x", ["reason"], registry=registry)
    summary = Summary("size", "x", registry=registry)
    labelled.labels("stop").inc(3)
    plain.inc(2)
    gauge.set(7)
    histogram.labels("m").observe(1.5)
    summary.observe(4)
    clean_metrics.begin(registry)
    text = generate_latest(registry).decode()
    for line in (
        'requests_total{reason="stop"} 0.0',
        "plain_total 0.0",
        "gauge 7.0",
        'seconds_bucket{le="2.0",model="m"} 0.0',
        'seconds_bucket{le="+Inf",model="m"} 0.0',
        'seconds_sum{model="m"} 0.0',
        "size_count 0.0",
        "size_sum 0.0",
    ):
        assert line in text.splitlines()
    labelled.labels("stop").inc()
    histogram.labels("m").observe(0.5)
    text = generate_latest(registry).decode()
    assert 'requests_total{reason="stop"} 1.0' in text and 'seconds_count{model="m"} 1.0' in text


def test_the_start_time_is_this_process_s() -> None:
    registry = CollectorRegistry()
    collector = ProcessCollector(registry=registry)
    right = registry.get_sample_value("process_start_time_seconds")
    collector._btime -= 1_000_000  # frozen on a machine that had been booted earlier
    clean_metrics.begin(registry)
    found = registry.get_sample_value("process_start_time_seconds")
    assert right is not None and found is not None
    assert abs(found - right) < 5 and found <= time.time() + 1
