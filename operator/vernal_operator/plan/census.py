"""Sorting a pool's pods."""

from collections.abc import Iterable
from dataclasses import dataclass

from vernal_operator.plan.model import PodView

LOST_AFTER_SECONDS = 30.0
"""A pod that is still there this long after its grace period is on a node that is gone; it holds no GPU."""


@dataclass(frozen=True, slots=True)
class Census:
    """A pool's pods by what can be done with them.

    Attributes:
        new: alive and of the wanted revision.
        old: alive and of another one.
        failed: ended, though nobody asked them to (an eviction, a node shut down); to be deleted.
        terminating: on their way out.
    """

    new: tuple[PodView, ...]
    old: tuple[PodView, ...]
    failed: tuple[PodView, ...]
    terminating: tuple[PodView, ...]

    @property
    def alive(self) -> tuple[PodView, ...]:
        return self.new + self.old


def census(pods: Iterable[PodView], wanted_revision: str) -> Census:
    new, old, failed, terminating = [], [], [], []
    for pod in pods:
        if pod.deletion_time is not None:
            terminating.append(pod)
        elif pod.phase in ("Succeeded", "Failed"):
            failed.append(pod)
        elif pod.revision == wanted_revision:
            new.append(pod)
        else:
            old.append(pod)
    return Census(tuple(new), tuple(old), tuple(failed), tuple(terminating))


def ready(pods: Iterable[PodView]) -> int:
    return sum(pod.ready for pod in pods)


def still_draining(pods: Census, wanted_revision: str, now: float) -> list[PodView]:
    """Terminating pods that a roll is replacing and that still hold their GPUs."""
    return [
        pod
        for pod in pods.terminating
        if pod.revision != wanted_revision
        and pod.scheduled
        and pod.phase not in ("Succeeded", "Failed")
        and pod.deletion_time is not None
        and now < pod.deletion_time + LOST_AFTER_SECONDS
    ]
