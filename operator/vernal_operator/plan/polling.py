"""Whose `/state` to read: pods in transition, at a bounded rate, and none of a settled pool."""

from collections.abc import Iterable

from vernal_operator.plan.model import PodView

STARTING_SECONDS = 5.0
"""Between two reads of a worker that is not ready."""
SETTLING_SECONDS = 1.0
"""Between two reads of a worker that Kubernetes calls ready and that has not said so itself yet."""
SILENT_SECONDS = 30.0
"""Between two reads of a ready worker that does not answer, or that does not agree that it is ready."""


def is_known(pod: PodView) -> bool:
    """Whether a ready pod's worker has told how it started, which does not change any more."""
    return pod.worker is not None and pod.worker.ready


def was_asked(pod: PodView) -> bool:
    """Whether there is an answer, or was an attempt at least: nothing waits for ever for a worker to
    speak.
    """
    return is_known(pod) or (pod.polled_at is not None and (pod.worker is None or _disagrees(pod)))


def _disagrees(pod: PodView) -> bool:
    """Ready for Kubernetes for a good while, yet not for itself when last asked."""
    since = pod.ready_since or pod.created
    return not is_known(pod) and pod.polled_at is not None and pod.polled_at > since + SILENT_SECONDS


def next_read(pod: PodView) -> float | None:
    """When this pod's state is to be read next, or None if there is no need."""
    if not pod.running or pod.deletion_time is not None or (pod.ready and is_known(pod)):
        return None
    if pod.polled_at is None:
        return 0.0
    if not pod.ready:
        return pod.polled_at + STARTING_SECONDS
    silent = pod.worker is None or _disagrees(pod)
    return pod.polled_at + (SILENT_SECONDS if silent else SETTLING_SECONDS)


def due(pods: Iterable[PodView], now: float) -> tuple[frozenset[str], float | None]:
    """Names of pods to read now, and the time of the next read after that."""
    names, later = set(), []
    for pod in pods:
        moment = next_read(pod)
        if moment is None:
            continue
        if moment <= now:
            names.add(pod.name)
        else:
            later.append(moment)
    return frozenset(names), min(later, default=None)
