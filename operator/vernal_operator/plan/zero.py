"""When a pool goes to zero, and when its Service leads to the waker.

R replicas; *serving* is a ready worker that the Service's endpoints hold already; *idle* is a pool with ready workers,
all of which said a moment ago that they have had no request for idleSeconds.

    the waker's slice stands      R = 0, or nobody is serving, or idle
    the pool is parked (R := 0)   idle, and the slice was seen standing
    it is woken (R := 1)          R = 0 and the slice is there, though the pool may not be at zero any more
    there is no slice             the pool may not be at zero, and is not

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
from vernal_operator.build.waker import slice_name
from vernal_operator.kinds import SLICES
from vernal_operator.plan.census import Census
from vernal_operator.plan.model import ChildKey, Event, PodView, Snapshot

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
        replicas: what the pool's are to be once the slice is as it should be; None to leave them.
        ask: pods whose load is to be read now; `next_ask` is when the next one is.
    """

    stands: bool | None = None
    replicas: int | None = None
    ask: frozenset[str] = frozenset()
    next_ask: float | None = None
    events: tuple[Event, ...] = ()


def zero(snapshot: Snapshot, pods: Census, wish: AutoscalingSpec | None, replicas: int) -> Zero:
    if wish is None:
        return Zero()
    now, waker = snapshot.now, snapshot.waker
    ready = [pod for pod in pods.alive if pods.meaning(pod).ready]
    ask, next_ask = _asks(ready, wish.idle_seconds, now)
    serving = any(pod.name in snapshot.in_endpoints for pod in ready)
    has_slice = ChildKey(SLICES.name, slice_name(snapshot.pool.name)) in snapshot.children
    if wish.min_replicas > 0 or (waker is None and has_slice and wish.idle_seconds is not None):
        # It may not be at zero. That its slice is still there says that it could, and was taken there: no HPA wakes it.
        left = has_slice and (not replicas or (waker is not None and not serving))
        events = () if wish.min_replicas else _missing(snapshot)
        woken = 1 if has_slice and not replicas else None
        return Zero(stands=True if left else None, replicas=woken, ask=ask, next_ask=next_ask, events=events)
    idle = replicas > 0 and _idle(ready, wish.idle_seconds, now)
    stands = replicas == 0 or not serving or idle
    if waker is None or not waker.addresses:
        # Those that leave hold requests still, and know the pool by its slice.
        kept = stands if waker is not None and has_slice else None
        events = _missing(snapshot) if idle or not replicas else ()
        return Zero(stands=kept, ask=ask, next_ask=next_ask, events=events)
    return Zero(stands=stands, replicas=0 if idle else None, ask=ask, next_ask=next_ask)


def _idle(ready: Iterable[PodView], idle_seconds: int | None, now: float) -> bool:
    quiet = [_quiet_seconds(pod, now) for pod in ready]
    return idle_seconds is not None and bool(quiet) and min(quiet) >= idle_seconds


def _quiet_seconds(pod: PodView, now: float) -> float:
    """For how long a worker has had nothing to do, by an answer that is fresh; 0 if it is not known."""
    if pod.worker is None or pod.worker.load is None or pod.answered_at is None or pod.worker.in_flight:
        return 0.0
    return pod.worker.load.idle_seconds if 0 <= now - pod.answered_at <= FRESH_SECONDS else 0.0


def _asks(ready: Iterable[PodView], idle_seconds: int | None, now: float) -> tuple[frozenset[str], float | None]:
    names, later = set(), []
    for pod in ready:
        moment = 0.0 if pod.polled_at is None else pod.polled_at + _pause(pod, idle_seconds)
        if moment <= now or (pod.polled_at is not None and pod.polled_at > now):  # the clock was set back since
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
