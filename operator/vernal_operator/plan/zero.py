"""When a pool goes to zero, and when its Service leads to the waker.

R replicas; *serving* is a ready worker that the Service's endpoints hold already; *idle* is a pool with ready workers,
all of which said a moment ago that they have had no request for idleSeconds.

    the waker's slice stands      R = 0, or nobody is serving, or idle
    the pool is parked (R := 0)   idle, and the slice was seen standing

Nothing is stored: each follows from what is seen now. So a request that comes between the two steps, or a worker that
becomes ready or is lost, only makes the next decision another one. What holds at each moment, whoever fails:

* The slice stands before the last worker goes, and falls only when a worker's endpoint is there: both are writes of one
  kind, and whoever follows endpoints sees them in their order, so that there is an endpoint at each moment.
* While it stands though a worker serves, the waker hands requests on at once: nothing waits for it to fall.
* A worker that goes still accepts for drain.propagationSeconds, for whoever has not heard of the slice by then.
* Parking is refused (resourceVersion) if anything of the pool changed since this was decided.

Design record 0020 works the races out.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from vernal_operator.api.autoscaling import AutoscalingSpec
from vernal_operator.plan.census import Census
from vernal_operator.plan.model import Event, PodView, Snapshot

LOAD_SECONDS = 5.0
"""Between two reads of a ready worker of a pool that something scales."""
FRESH_SECONDS = 3.0
"""How old an answer may be by which a pool goes to zero. What comes after it is what the worker's drain is for."""
_AGAIN_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class Zero:
    """What is to be done.

    Attributes:
        stands: whether the waker's slice is to lead requests to the waker; None for no slice.
        idle: nobody has needed the workers for long enough: `parks` once the slice stands.
        ask: pods whose load is to be read now; `next_ask` is when the next one is.
    """

    stands: bool | None = None
    idle: bool = False
    ask: frozenset[str] = frozenset()
    next_ask: float | None = None
    events: tuple[Event, ...] = ()


def zero(snapshot: Snapshot, pods: Census, wish: AutoscalingSpec | None, replicas: int) -> Zero:
    if wish is None:
        return Zero()
    now = snapshot.now
    ready = [pod for pod in pods.alive if pods.meaning(pod).ready]
    ask, next_ask = _asks(ready, wish.idle_seconds, now)
    if wish.min_replicas > 0:
        return Zero(ask=ask, next_ask=next_ask)
    waker = snapshot.waker
    idle = replicas > 0 and _idle(ready, wish.idle_seconds, now)
    if waker is None or not waker.addresses:
        return Zero(ask=ask, next_ask=next_ask, events=_missing(snapshot) if idle or not replicas else ())
    serving = any(pod.name in snapshot.in_endpoints for pod in ready)
    return Zero(stands=replicas == 0 or not serving or idle, idle=idle, ask=ask, next_ask=next_ask)


def _idle(ready: Iterable[PodView], idle_seconds: int | None, now: float) -> bool:
    quiet = [_quiet_seconds(pod, now) for pod in ready]
    return idle_seconds is not None and bool(quiet) and min(quiet) >= idle_seconds


def _quiet_seconds(pod: PodView, now: float) -> float:
    """For how long a worker has had nothing to do, by an answer that is fresh; 0 if it is not known."""
    if pod.worker is None or pod.worker.load is None or pod.answered_at is None or pod.worker.in_flight:
        return 0.0
    return pod.worker.load.idle_seconds if now - pod.answered_at <= FRESH_SECONDS else 0.0


def _asks(ready: Iterable[PodView], idle_seconds: int | None, now: float) -> tuple[frozenset[str], float | None]:
    names, later = set(), []
    for pod in ready:
        moment = 0.0 if pod.polled_at is None else pod.polled_at + _pause(pod, idle_seconds)
        if moment <= now:
            names.add(pod.name)
        else:
            later.append(moment)
    return frozenset(names), min(later, default=None)


def _pause(pod: PodView, idle_seconds: int | None) -> float:
    """Sooner where it is about to have been idle for long enough."""
    if idle_seconds is None or pod.worker is None or pod.worker.load is None or pod.worker.in_flight:
        return LOAD_SECONDS
    return min(LOAD_SECONDS, max(_AGAIN_SECONDS, idle_seconds - pod.worker.load.idle_seconds))


def _missing(snapshot: Snapshot) -> tuple[Event, ...]:
    text = (
        "spec.autoscaling.minReplicas is 0 and no waker is ready to hold requests: the pool does not go to zero, and "
        "requests to one without workers fail; set waker.enabled in the chart, and look at the pods of its Deployment"
    )
    return (Event("Warning", "NoWaker", text, f"waker/{snapshot.pool.generation}"),)
