"""Whose `/state` to read: pods in transition, at a bounded rate, and none of a settled pool but while a node's cache is
filled.
"""

from collections.abc import Iterable
from enum import Enum, auto

from vernal_contract.state import CacheLookup, StartMode

from vernal_operator.plan.model import PodView

STARTING_SECONDS = 5.0
"""Between two reads of a worker that is not ready."""
SETTLING_SECONDS = 1.0
"""Between two reads of a worker that Kubernetes calls ready and that has not said so itself yet."""
SILENT_SECONDS = 30.0
"""Between two reads of a ready worker that does not answer, or that does not agree that it is ready."""
FILLING_SECONDS, FILLS_SECONDS = 30.0, 3600.0
"""Between two reads of a worker that puts its checkpoint into the node's cache, and how long that is waited for."""


class Heard(Enum):
    """What a pod's worker has said."""

    NOTHING = auto()  # it was never asked
    NOT_READY = auto()  # that it is not ready
    SILENCE = auto()  # no answer; or that it is not ready, long after Kubernetes called it so
    READY = auto()  # how it started, which does not change any more


def heard(pod: PodView) -> Heard:
    if pod.worker is not None and pod.worker.ready:
        return Heard.READY
    if pod.polled_at is None:
        return Heard.NOTHING
    disagrees = pod.ready and pod.polled_at > (pod.ready_since or pod.created) + SILENT_SECONDS
    return Heard.SILENCE if pod.worker is None or disagrees else Heard.NOT_READY


def was_asked(pod: PodView) -> bool:
    """Whether there is an answer, or will be none: nothing waits for ever for a ready pod's worker to speak."""
    return heard(pod) in (Heard.READY, Heard.SILENCE)


_PAUSE = {Heard.NOT_READY: SETTLING_SECONDS, Heard.SILENCE: SILENT_SECONDS, Heard.READY: FILLING_SECONDS}


def next_read(pod: PodView, now: float) -> float | None:
    """When this pod's state is to be read next, or None if there is no need."""
    said = heard(pod)
    if not pod.running or pod.deletion_time is not None:
        return None
    if pod.ready and said is Heard.READY and not _fills(pod, now):
        return None
    if pod.polled_at is None or pod.polled_at > now:  # the clock was set back since
        return 0.0
    return pod.polled_at + (_PAUSE[said] if pod.ready else STARTING_SECONDS)


def _fills(pod: PodView, now: float) -> bool:
    """Whether what its worker has read, or made, is on its way into the node's cache."""
    report = pod.worker.node_cache if pod.worker is not None else None
    if pod.worker is None or pod.worker.artifact is None or report is None or report.fill is not None:
        return False
    thawed_from_there = report.lookup == CacheLookup.HIT and pod.worker.start_mode == StartMode.RESTORED
    return not thawed_from_there and now < (pod.ready_since or pod.created) + FILLS_SECONDS


def due(pods: Iterable[PodView], now: float) -> tuple[frozenset[str], float | None]:
    """Names of pods to read now, and the time of the next read after that."""
    names, later = set(), []
    for pod in pods:
        moment = next_read(pod, now)
        if moment is None:
            continue
        if moment <= now:
            names.add(pod.name)
        else:
            later.append(moment)
    return frozenset(names), min(later, default=None)
