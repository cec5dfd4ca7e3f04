"""Where the seconds of a start go: from the wish for one more worker to the endpoint that leads to it.

Moments are those at which the operator sees what it plans from, because Kubernetes writes whole seconds. Seen a little
later than they were; a phase is right to some hundredths of a second, and their sum to as much.

    operator   the wish (spec.replicas grew) to the pod
    schedule   the pod to its node
    kubelet    the node to the container that runs: volumes, image, sandbox
    worker     the container to Ready: the supervisor's own phases, then the probe
    endpoint   Ready to the Service's endpoint
    total      all of it; without the first, where the pod was made for another reason

What comes before, from a request that a pool without workers held, is the waker's (`vernal_waker_wake_seconds`); the
supervisor's own phases are observed as `worker/NAME`.
"""

import logging
import threading
from dataclasses import dataclass, field

from vernal_contract.state import StartMode

from vernal_operator import metrics
from vernal_operator.kinds import Key
from vernal_operator.plan.model import PodView, Snapshot
from vernal_operator.plan.polling import Heard, heard

log = logging.getLogger(__name__)

_ORDER = ("pod", "node", "running", "ready", "endpoint")
_PHASES = ("schedule", "kubelet", "worker", "endpoint")
_NEW_SECONDS = 3.0
"""A pod that is older when it is first seen was made before this operator began to look."""
_WISH_SECONDS = 60.0
"""A pod that is made later after a wish was made for another reason."""
_SUPERVISOR = frozenset(
    [
        "identity",
        "find",
        "fetch",
        "verify",
        "shm",
        "criu",
        "cuda",
        "weights",
        "weights_wait",
        "wake",
        "resume",
        "canary",
        "engine_start",
        "warm",
        "oracle",
        "quiesce",
        "store_weights",
        "cuda_suspend",
        "freeze",
        "publish",
        "total",
    ]
)
"""Of what workers report: they run other people's code, and must not make up series."""


@dataclass(slots=True)
class _Pool:
    replicas: int | None = None
    wished: float | None = None
    pods: dict[str, dict[str, float] | None] = field(default_factory=dict)  # by uid; None of those that are told


class Starts:
    """Fed with snapshots. Thread-safe for different pools."""

    def __init__(self) -> None:
        self._pools: dict[Key, _Pool] = {}
        self._lock = threading.Lock()

    def look(self, key: Key, snapshot: Snapshot) -> None:
        """Take note of what is new, and tell of each start that is complete, once."""
        if snapshot.pool.spec is None:
            return
        with self._lock:
            pool = self._pools.setdefault(key, _Pool())
        replicas, now = snapshot.pool.spec.replicas, snapshot.now
        if pool.replicas is None or replicas > pool.replicas:
            pool.wished = now
        pool.replicas = replicas
        seen: dict[str, dict[str, float] | None] = {}
        for pod in snapshot.pods:
            moments = pool.pods.get(pod.uid, {} if now - pod.created < _NEW_SECONDS else None)
            if moments is not None and pod.restarts == 0:
                _note(moments, pod, now, in_endpoints=pod.name in snapshot.in_endpoints)
                if "endpoint" in moments and heard(pod) is Heard.READY:
                    _tell(key, pod, moments, pool.wished)
                    moments = None
            seen[pod.uid] = moments if pod.restarts == 0 else None
        pool.pods = seen

    def forget(self, key: Key) -> None:
        """The pool is gone."""
        with self._lock:
            self._pools.pop(key, None)


def _note(moments: dict[str, float], pod: PodView, now: float, *, in_endpoints: bool) -> None:
    reached = (True, pod.scheduled, pod.running, pod.ready, pod.ready and in_endpoints)
    for name, is_there in zip(_ORDER, reached, strict=True):
        if is_there:
            moments.setdefault(name, now)


def _tell(key: Key, pod: PodView, moments: dict[str, float], wished: float | None) -> None:
    worker = pod.worker
    assert worker is not None
    if worker.start_mode not in (StartMode.COLD, StartMode.RESTORED):
        return
    began = moments["pod"]
    times = [moments.get(name, moments["endpoint"]) for name in _ORDER]
    phases = {name: end - begin for name, begin, end in zip(_PHASES, times, times[1:], strict=False)}
    if wished is not None and 0 <= began - wished <= _WISH_SECONDS:
        phases = {"operator": began - wished} | phases
        began = wished
    phases["total"] = moments["endpoint"] - began
    mode = str(worker.start_mode)
    own = {f"worker/{name}": value for name, value in worker.timings.items() if name in _SUPERVISOR}
    for phase, seconds in (phases | own).items():
        metrics.START_SECONDS.labels(phase, mode).observe(max(0.0, seconds))
    metrics.POOL_STARTS.labels(key.namespace, key.name, mode).inc()
    told = " ".join(f"{name}={seconds:.3f}" for name, seconds in (phases | own).items())
    log.info("event=start pool=%s/%s pod=%s mode=%s %s", key.namespace, key.name, pod.name, mode, told)
