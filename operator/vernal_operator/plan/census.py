"""Counting a pool's pods, by class and by revision."""

from collections.abc import Container, Iterable, Mapping
from dataclasses import dataclass, replace

from vernal_operator.api.pool import VLLMWorkerPoolSpec
from vernal_operator.build.pod import startup_seconds
from vernal_operator.plan.model import PodView
from vernal_operator.plan.pods import MEANING, Meaning, PodClass, classify


@dataclass(frozen=True, slots=True)
class Census:
    """A pool's pods.

    Attributes:
        target: the revision that pods are brought to.
        new: alive and of that revision.
        old: alive and of another one.
        leaving: on their way out.
        over: ended, though nobody asked them to; to be deleted.
        dismissed: drained by hand; to be deleted, and no failure.
        classes: by uid.
    """

    target: str
    new: tuple[PodView, ...]
    old: tuple[PodView, ...]
    leaving: tuple[PodView, ...]
    over: tuple[PodView, ...]
    dismissed: tuple[PodView, ...]
    classes: Mapping[str, PodClass]

    @property
    def alive(self) -> tuple[PodView, ...]:
        return self.new + self.old

    @property
    def draining(self) -> tuple[PodView, ...]:
        """Pods that a roll replaces, or replaced, and that still hold their GPUs."""
        gone = (pod for pod in self.leaving if pod.revision != self.target)
        return tuple(pod for pod in gone if self.classes[pod.uid] is PodClass.DRAINING)

    def meaning(self, pod: PodView) -> Meaning:
        return MEANING[self.classes[pod.uid]]

    def among(self, pods: Iterable[PodView], wanted: PodClass) -> list[PodView]:
        """Those of a class."""
        return [pod for pod in pods if self.classes[pod.uid] is wanted]

    def ready(self, pods: Iterable[PodView]) -> int:
        return sum(self.meaning(pod).ready for pod in pods)

    def available(self, pods: Iterable[PodView]) -> int:
        return len(self.among(pods, PodClass.AVAILABLE))

    def without(self, gone: Container[str]) -> "Census":
        """As if pods of these uids were not there."""
        return replace(
            self,
            new=tuple(pod for pod in self.new if pod.uid not in gone),
            old=tuple(pod for pod in self.old if pod.uid not in gone),
        )


def census(pods: Iterable[PodView], target: str, spec: VLLMWorkerPoolSpec, now: float) -> Census:
    """Classify all pods, once. `spec` is that of the revision `target`."""
    patience, settle = startup_seconds(spec), spec.rollout.min_ready_seconds
    everyone = tuple(pods)
    classes = {pod.uid: classify(pod, now, patience, settle) for pod in everyone}
    alive = [pod for pod in everyone if MEANING[classes[pod.uid]].alive]
    rest = [pod for pod in everyone if not MEANING[classes[pod.uid]].alive]
    return Census(
        target=target,
        new=tuple(pod for pod in alive if pod.revision == target),
        old=tuple(pod for pod in alive if pod.revision != target),
        leaving=tuple(pod for pod in rest if classes[pod.uid] in (PodClass.DRAINING, PodClass.LEFT)),
        over=tuple(pod for pod in rest if classes[pod.uid] is PodClass.OVER),
        dismissed=tuple(pod for pod in rest if classes[pod.uid] is PodClass.DISMISSED),
        classes=classes,
    )
