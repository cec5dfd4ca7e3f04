"""Where the seconds of a start go: from the wish for one more worker to the endpoint that leads to it.

Moments are those at which the operator sees what it plans from, because Kubernetes writes whole seconds. Seen a little
later than they were; a phase (`plan.timeline`) is right to some hundredths of a second, and their sum to as much.

What comes before, from a request that a pool without workers held, is the waker's (`vernal_waker_wake_seconds`); the
supervisor's own phases are observed as `worker/NAME`.
"""

import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass, field

from vernal_contract.state import StartMode

from vernal_operator import metrics
from vernal_operator.kinds import Key
from vernal_operator.plan.model import PodView, Pool, Snapshot
from vernal_operator.plan.polling import Heard, heard
from vernal_operator.plan.timeline import MOMENTS, Timeline, Wish, timeline

log = logging.getLogger(__name__)

_NEW_SECONDS = 3.0
"""A pod that was made longer than this before the last look at its pool, or before the first one, is none that has come
since, though it was not seen: clocks differ, and Kubernetes writes whole seconds.
"""


@dataclass(slots=True)
class _Start:
    wish: Wish | None
    moments: dict[str, float] = field(default_factory=dict)


@dataclass(slots=True)
class _Pool:
    replicas: int | None = None
    version: int = 0  # when these were last seen
    wish: Wish | None = None
    looked: float | None = None  # when it was looked at last
    pods: dict[str, _Start | None] = field(default_factory=dict)  # by uid; None of those that are told


class Starts:
    """Fed with snapshots. Thread-safe for different pools."""

    def __init__(self, trace: Callable[[Timeline, str], None] | None = None) -> None:
        """`trace` is told of each start, and its pool's uid. See `traces.Traces.tell`."""
        self._trace = trace
        self._pools: dict[Key, _Pool] = {}
        self._lock = threading.Lock()

    def look(self, key: Key, snapshot: Snapshot) -> None:
        """Take note of what is new, and tell of each start that is complete, once."""
        if snapshot.pool.spec is None:
            return
        with self._lock:
            pool = self._pools.setdefault(key, _Pool())
        replicas, now = snapshot.pool.spec.replicas, snapshot.now
        since = now if pool.looked is None else pool.looked  # not now: the API server may take long to make a pod
        if pool.replicas is None or replicas > pool.replicas:
            pool.wish = Wish(now, (pool.version, snapshot.version) if pool.replicas == 0 else None)
        pool.replicas, pool.version = replicas, snapshot.version
        seen: dict[str, _Start | None] = {}
        for pod in snapshot.pods:
            start = pool.pods.get(pod.uid, _Start(pool.wish) if pod.created > since - _NEW_SECONDS else None)
            if start is not None and pod.restarts == 0:
                _note(start.moments, pod, now, in_endpoints=pod.name in snapshot.in_endpoints)
                if "endpoint" in start.moments and heard(pod) is Heard.READY:
                    self._tell(key, snapshot.pool, pod, start)
                    start = None
            seen[pod.uid] = start if pod.restarts == 0 else None
        pool.pods, pool.looked = seen, now

    def forget(self, key: Key) -> None:
        """The pool is gone."""
        with self._lock:
            self._pools.pop(key, None)

    def _tell(self, key: Key, pool: Pool, pod: PodView, start: _Start) -> None:
        worker = pod.worker
        assert worker is not None
        if worker.start_mode not in (StartMode.COLD, StartMode.RESTORED):
            return
        told, mode = timeline(pool, pod, worker, start.moments, start.wish), str(worker.start_mode)
        for phase, seconds in told.phases.items():
            metrics.START_SECONDS.labels(phase, mode).observe(max(0.0, seconds))
        metrics.POOL_STARTS.labels(key.namespace, key.name, mode).inc()
        words = " ".join(f"{name}={seconds:.3f}" for name, seconds in told.phases.items())
        log.info("event=start pool=%s/%s pod=%s mode=%s %s", key.namespace, key.name, pod.name, mode, words)
        if self._trace is not None:
            self._trace(told, pool.uid)


def _note(moments: dict[str, float], pod: PodView, now: float, *, in_endpoints: bool) -> None:
    reached = (True, pod.scheduled, pod.running, pod.ready, pod.ready and in_endpoints)
    for name, is_there in zip(MOMENTS, reached, strict=True):
        if is_there:
            moments.setdefault(name, now)
