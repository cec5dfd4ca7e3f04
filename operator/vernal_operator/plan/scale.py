"""Which pods go first.

The order is a ReplicaSet's (unscheduled, pending, not ready, lower deletion cost), then Vernal's own: old
revision, fewest requests in flight, newest. Requests in flight are only asked for where they decide.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

from vernal_operator.plan.census import Census
from vernal_operator.plan.model import PodView

FRESH_SECONDS = 10.0
"""How old a count of requests in flight may be. A worker that did not answer within it counts as busiest."""


@dataclass(frozen=True, slots=True)
class Choice:
    """Pods to delete, and pods to ask before the rest of them can be chosen."""

    victims: tuple[PodView, ...] = ()
    ask: frozenset[str] = frozenset()


def _in_flight(pod: PodView, now: float) -> float:
    if pod.worker is None or pod.answered_at is None or now - pod.answered_at > FRESH_SECONDS:
        return float("inf")
    return pod.worker.in_flight


def _was_asked_lately(pod: PodView, now: float) -> bool:
    return pod.polled_at is not None and now - pod.polled_at <= FRESH_SECONDS


def _newest_first(pod: PodView) -> tuple[float, float, str]:
    return -(pod.ready_since or pod.created), -pod.created, pod.name


def choose(pods: Census, among: Sequence[PodView], count: int, now: float) -> Choice:
    """The `count` pods of `among` that go first.

    Pods that are tied before requests in flight are looked at, and of which only some go, are to be asked
    first if they were not lately; all others are chosen at once.
    """
    victims: list[PodView] = []

    def order(pod: PodView) -> tuple[int, int, bool]:
        return pods.meaning(pod).rank, pod.deletion_cost, pod.revision == pods.target

    for _, group in groupby(sorted(among, key=order), key=order):
        tied = list(group)
        left = count - len(victims)
        if left <= 0:
            break
        if len(tied) > left and pods.meaning(tied[0]).ready:
            # All or none are asked, so that the answers are of one moment and are all fresh when they are
            # compared.
            if not all(_was_asked_lately(pod, now) for pod in tied):
                return Choice(tuple(victims), frozenset(pod.name for pod in tied))
            tied.sort(key=lambda pod: (_in_flight(pod, now), *_newest_first(pod)))
        else:
            tied.sort(key=_newest_first)
        victims += tied[:left]
    return Choice(tuple(victims))
