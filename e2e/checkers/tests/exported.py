"""What Prometheus gets to see: the real /metrics of operator, worker and engine, with the PodMonitors' labels."""

import os
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

from prometheus_client import REGISTRY, CollectorRegistry, generate_latest
from prometheus_client.metrics import MetricWrapperBase
from prometheus_client.parser import text_string_to_metric_families
from vernal_contract.reasons import Reason
from vernal_contract.state import (
    CacheFill,
    CacheLookup,
    DrainReport,
    FreezeOutcome,
    FreezeReport,
    Load,
    NodeCacheReport,
    Phase,
    RestoreFailure,
    StartMode,
    WorkerState,
)
from vernal_operator import metrics
from vernal_operator.kinds import CHECKPOINTS, POOLS, Kind
from vernal_operator.observe import views
from vernal_operator.observe.cache import Cache
from vernal_operator.observe.inventory import Inventory
from vernal_operator.observe.observer import Observer
from vernal_operator.observe.pool_metrics import PoolMetrics
from vernal_operator.observe.workers import Workers
from vernal_waker import metrics as waker_metrics
from vernal_worker import threads
from vernal_worker.supervisor import metrics as worker_metrics

ROOT = Path(__file__).parents[3]
NAMESPACE, POOL, POD = "ml", "qwen", "qwen-1a2b3c4d-0"
OPERATOR_TARGET = {
    "job": "vernal-system/vernal",
    "namespace": "vernal-system",
    "pod": "vernal-0",
    "endpoint": "metrics",
}
WAKER_TARGET = OPERATOR_TARGET | {"job": "vernal-system/vernal-waker", "pod": "vernal-waker-0"}
WORKER_TARGET = {"job": "vernal-system/vernal-workers", "namespace": NAMESPACE, "pod": POD, "pool": POOL}
CONDITIONS = [{"type": type_, "status": "True", "reason": "Any"} for type_ in ("Ready", "Degraded", "Quarantined")]


def operator() -> str:
    """The operator's registry, with a series of each metric, and one pool and one checkpoint in the caches."""
    _one_of_each(vars(metrics).values())
    for mode in StartMode:
        metrics.START_SECONDS.labels("any", str(mode))
    return generate_latest(REGISTRY).decode() + inventory() + pool_load()


def waker() -> str:
    _one_of_each(vars(waker_metrics).values())
    return generate_latest(waker_metrics.REGISTRY).decode()


def _one_of_each(found: Iterable[object]) -> None:
    for metric in found:
        if isinstance(metric, MetricWrapperBase) and metric._labelnames:
            metric.labels(*["any"] * len(metric._labelnames))


def everything(engine: str) -> list[tuple[str, str, bool]]:
    """The series of all: see `series`. `engine` is that of `engine()`, which takes its time."""
    return [
        *series(operator(), OPERATOR_TARGET, honor_labels=True),
        *series(waker(), WAKER_TARGET, honor_labels=True),
        *series(worker(), WORKER_TARGET),
        *series(engine, WORKER_TARGET | {"endpoint": "http"}),
    ]


def inventory() -> str:
    registry = CollectorRegistry()
    spec = {"image": "i", "model": {"name": "m"}, "checkpoint": {"storage": {"claimName": "c"}}}
    pools = _cache(POOLS, POOL, spec, {"readyReplicas": 1, "conditions": CONDITIONS})
    artifact = {"identity": "0" * 64, "hostTuple": "1" * 64, "model": "m", "image": "i", "storage": {"claimName": "c"}}
    checkpoints = _cache(CHECKPOINTS, "c", artifact, {"sizeBytes": 2**30, "restores": 3, "conditions": CONDITIONS})
    registry.register(Inventory(cast(Observer, SimpleNamespace(pools=pools, checkpoints=checkpoints))))
    return generate_latest(registry).decode()


def pool_load() -> str:
    """Of one ready worker of a pool with spec.autoscaling, which has just answered."""
    spec = {
        "image": "i",
        "model": {"name": "m"},
        "checkpoint": {"policy": "Disabled"},
        "autoscaling": {"maxReplicas": 2},
    }
    pools = _cache(POOLS, POOL, spec, {})
    pod = SimpleNamespace(ready=True, deletion_time=None, restarts=0)
    entry = SimpleNamespace(uid=POD, owner=POOL, view=SimpleNamespace(view=pod))
    pods = SimpleNamespace(group=lambda namespace, name: [entry])
    answer = SimpleNamespace(answered_at=time.time(), worker=state())
    workers = SimpleNamespace(answer=lambda uid, restarts: answer)
    registry = CollectorRegistry()
    registry.register(PoolMetrics(cast(Observer, SimpleNamespace(pools=pools, pods=pods)), cast(Workers, workers)))
    return generate_latest(registry).decode()


def _cache(kind: Kind, name: str, spec: Any, status: Any) -> Cache[Any]:
    cache: Cache[Any] = Cache(lambda old, new: None)
    reader = views.POOLS_READER if kind is POOLS else views.CHECKPOINTS_READER
    meta = {"name": name, "namespace": NAMESPACE, "uid": name, "resourceVersion": "1"}
    entry = reader.convert({"metadata": meta, "spec": spec, "status": status})
    assert entry is not None
    cache.seen(entry)
    return cache


def worker() -> str:
    """A worker that failed to thaw, started cold, could not be frozen and drains: it has all there is to say."""
    threads.failures["any"] = 1
    return worker_metrics.text(state())


def state() -> WorkerState:
    steps = ("verify", "files", "images", "criu", "total")
    return WorkerState(
        pod=POD, namespace=NAMESPACE, pool=POOL, revision="r", phase=Phase.DRAINING, start_mode=StartMode.COLD,
        start_reason=Reason.DIGEST_MISMATCH, timings=dict.fromkeys(steps, 1.0),
        freeze=FreezeReport(outcome=FreezeOutcome.FAILED, reason=Reason.STORE_FULL),
        restore_failures=[RestoreFailure(generation="g", stage="verify", reason="DigestMismatch", message="m")],
        drain=DrainReport(seconds_left=5.0, accepting=False, aborted=1), in_flight=1, accepted_total=1,
        load=Load(running=1, waiting=0, kv_usage=0.5, pressure=0.5, idle_seconds=0.0),
        node_cache=NodeCacheReport(
            tier="disk", lookup=CacheLookup.DAMAGED, lookup_seconds=0.1, fill=CacheFill.FULL, fill_seconds=1.0
        ),
    )  # fmt: skip


@cache
def engine() -> str:
    """Of vLLM, which takes 15 s of a core to import: in a process of its own."""
    path = os.pathsep.join(str(ROOT / part) for part in ("contract", "worker_image", "e2e"))
    done = subprocess.run(
        [sys.executable, str(Path(__file__).with_name("engine_metrics.py"))],
        env=os.environ | {"PYTHONPATH": path, "VLLM_LOGGING_LEVEL": "ERROR"},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout[done.stdout.index("# HELP") :]


def series(text: str, target: dict[str, str], *, honor_labels: bool = False) -> Iterator[tuple[str, str, bool]]:
    """Name, the whole series with the labels of its target, and whether it is one that only grows."""
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            own = dict(sample.labels)
            clash = {} if honor_labels else {f"exported_{key}": own.pop(key) for key in target if key in own}
            labels = ",".join(f'{key}="{value}"' for key, value in sorted({**target, **own, **clash}.items()))
            grows = family.type in ("counter", "histogram", "summary") and not sample.name.endswith("_created")
            yield sample.name, f"{sample.name}{{{labels}}}", grows
