"""Metrics about pools and checkpoints say what the caches hold, and nothing of what is gone."""

from types import SimpleNamespace
from typing import Any, cast

from prometheus_client import CollectorRegistry, generate_latest
from vernal_operator.observe.cache import Cache
from vernal_operator.observe.inventory import Inventory
from vernal_operator.observe.observer import Observer
from vernal_operator.observe.views import CHECKPOINTS_READER, POOLS_READER

SPEC = {"image": "i", "replicas": 3, "model": {"name": "m"}, "checkpoint": {"storage": {"claimName": "c"}}}
ARTIFACT = {"identity": "0" * 64, "hostTuple": "1" * 64, "model": "m", "image": "i", "storage": {"claimName": "c"}}
LABELS = 'namespace="ml",pool="qwen"'


def caches() -> Any:
    return SimpleNamespace(pools=Cache[Any](lambda old, new: None), checkpoints=Cache[Any](lambda old, new: None))


def see(cache: Cache[Any], reader: Any, name: str, version: int, spec: Any, status: Any) -> None:
    meta = {"name": name, "namespace": "ml", "uid": name, "resourceVersion": str(version)}
    cache.seen(reader.convert({"metadata": meta, "spec": spec, "status": status}))


def text(observer: Any) -> str:
    registry = CollectorRegistry(auto_describe=True)
    registry.register(Inventory(cast(Observer, observer)))
    return generate_latest(registry).decode()


def test_a_pool_while_it_is_there() -> None:
    seen = caches()
    degraded = {"type": "Degraded", "status": "True", "reason": "Crashing"}
    see(seen.pools, POOLS_READER, "qwen", 1, SPEC, {"readyReplicas": 2, "conditions": [degraded]})
    found = text(seen)
    assert f"vernal_pool_desired_replicas{{{LABELS}}} 3.0" in found
    assert f"vernal_pool_ready_replicas{{{LABELS}}} 2.0" in found
    assert f"vernal_pool_restored_replicas{{{LABELS}}} 0.0" in found, "what is not said yet reads as 0"
    assert 'vernal_pool_condition{namespace="ml",pool="qwen",reason="Crashing",type="Degraded"} 1.0' in found
    see(seen.pools, POOLS_READER, "qwen", 2, SPEC, {"conditions": [degraded | {"status": "False", "reason": "Fine"}]})
    found = text(seen)
    assert 'reason="Fine",type="Degraded"} 0.0' in found and "Crashing" not in found
    seen.pools.gone("ml", "qwen", 3)
    assert "qwen" not in text(seen)


def test_a_pool_whose_spec_makes_no_sense_is_counted_without_what_it_wants() -> None:
    seen = caches()
    see(seen.pools, POOLS_READER, "qwen", 1, {"replicas": "many"}, {"readyReplicas": 1})
    found = text(seen)
    assert "vernal_pool_desired_replicas{" not in found and f"vernal_pool_ready_replicas{{{LABELS}}} 1.0" in found


def test_a_status_that_somebody_else_wrote_does_not_end_the_scrape() -> None:
    seen = caches()
    see(seen.pools, POOLS_READER, "qwen", 1, SPEC, {"readyReplicas": "two", "conditions": None})
    found = text(seen)
    assert "vernal_pool_ready_replicas{" not in found and f"vernal_pool_desired_replicas{{{LABELS}}} 3.0" in found


def test_a_checkpoint() -> None:
    seen = caches()
    published = {"type": "Ready", "status": "True", "reason": "Published"}
    status = {"sizeBytes": 1024, "warmNodes": 2, "restores": 7, "conditions": [published]}
    see(seen.checkpoints, CHECKPOINTS_READER, "c", 1, ARTIFACT, status)
    found = text(seen)
    labels = 'checkpoint="c",namespace="ml"'
    assert f"vernal_checkpoint_size_bytes{{{labels}}} 1024.0" in found
    assert f"vernal_checkpoint_warm_nodes{{{labels}}} 2.0" in found
    assert f"vernal_checkpoint_restores_total{{{labels}}} 7.0" in found
    assert f"vernal_checkpoint_restore_failures_total{{{labels}}} 0.0" in found
    assert 'vernal_checkpoint_condition{checkpoint="c",namespace="ml",reason="Published",type="Ready"} 1.0' in found
