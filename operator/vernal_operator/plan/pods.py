"""What a pod is: one class for each pod, and one table of what each class means.

A pod is classified once a plan, in `census`: whether it counts, serves, holds a GPU or is at fault is decided here.
Its fields are read elsewhere for other questions: why it is not ready (`conditions`, `farewell`), whether its worker
can be asked and has answered (`polling`, `startup`, `rollout`), how old it is beside others (`scale`, `startup`,
`backoff`). Where there is no census, in `observe` and in `proving` for a pool whose status was lost, a pod serves if it
is ready and not on its way out.
"""

from dataclasses import dataclass
from enum import Enum, auto

from vernal_contract.state import Phase

from vernal_operator.plan.model import ContainerView, PodView

LOST_AFTER_SECONDS = 30.0
"""A pod that is still there this long after its grace period is on a node that is gone; it holds no GPU."""


class PodClass(Enum):
    """Faults come first, the worst before the others: in this order they are told."""

    UNPULLABLE = auto()  # its image cannot be pulled
    MISCONFIGURED = auto()  # its container cannot be made: a Secret is missing, say
    CRASHING = auto()  # its container ended and was started again
    UNSCHEDULABLE = auto()  # no node takes it
    STUCK = auto()  # on a node, and nothing runs for longer than a start may take
    LATE = auto()  # its container runs, for longer than a start may take
    DISMISSED = auto()  # drained by hand (`POST /drain`), from which no worker comes back
    OVER = auto()  # ended, though nobody asked it to: an eviction, a node shut down, a kubelet that refused it
    UNSCHEDULED = auto()  # the scheduler has not looked at it yet
    CREATING = auto()  # on a node: volumes, image
    STARTING = auto()  # its container runs
    SETTLING = auto()  # ready, for less than minReadySeconds
    AVAILABLE = auto()  # ready for minReadySeconds
    DRAINING = auto()  # on its way out, and holds its GPU
    LEFT = auto()  # on its way out, and holds nothing


@dataclass(frozen=True, slots=True)
class Meaning:
    """What a class means.

    Attributes:
        alive: it counts as a replica.
        ready: it serves.
        rank: lower ones go first when there are too many. A ReplicaSet's order, and what is ready but not available.
        fault: the reason of the condition Degraded; "" if nothing is wrong.
    """

    alive: bool = True
    ready: bool = False
    rank: int = 0
    fault: str = ""


MEANING = {
    PodClass.UNPULLABLE: Meaning(rank=1, fault="ImagePullFailed"),
    PodClass.MISCONFIGURED: Meaning(rank=1, fault="ContainerConfigInvalid"),
    PodClass.CRASHING: Meaning(rank=2, fault="Crashing"),
    PodClass.UNSCHEDULABLE: Meaning(rank=0, fault="Unschedulable"),
    PodClass.STUCK: Meaning(rank=1, fault="StartTimeout"),
    PodClass.LATE: Meaning(rank=2, fault="StartTimeout"),
    PodClass.DISMISSED: Meaning(alive=False),
    PodClass.OVER: Meaning(alive=False),
    PodClass.UNSCHEDULED: Meaning(rank=0),
    PodClass.CREATING: Meaning(rank=1),
    PodClass.STARTING: Meaning(rank=2),
    PodClass.SETTLING: Meaning(ready=True, rank=3),
    PodClass.AVAILABLE: Meaning(ready=True, rank=4),
    PodClass.DRAINING: Meaning(alive=False),
    PodClass.LEFT: Meaning(alive=False),
}

_PULL = ("ErrImagePull", "ImagePullBackOff", "InvalidImageName", "ErrImageNeverPull", "ImageInspectError")
_CONFIG = ("CreateContainerConfigError", "CreateContainerError", "RunContainerError")


def is_over(pod: PodView) -> bool:
    """Its containers have ended, and none will be started again."""
    return pod.phase in ("Succeeded", "Failed")


def serves(pod: PodView) -> bool:
    """Where there is no census."""
    return pod.ready and pod.deletion_time is None and not is_over(pod)


def at_fault(pod: PodView) -> PodView | ContainerView:
    """Whose waiting reason, restarts and last words count: the worker's, or those of a container it waits for."""
    return pod.beside or pod


def has_ended(pod: PodView) -> bool:
    """Whether the container that counts has ended and was, or will be, started again."""
    container = at_fault(pod)
    return container.last_exit_code is not None and bool(container.restarts or pod.beside)


def classify(pod: PodView, now: float, patience: float, settle: float) -> PodClass:
    """The class of a pod.

    Args:
        patience: how long a start may take, in seconds.
        settle: how long a pod must have been ready to be available, in seconds.
    """
    over = is_over(pod)
    if pod.deletion_time is not None:
        holds = pod.scheduled and not over and now < pod.deletion_time + LOST_AFTER_SECONDS
        return PodClass.DRAINING if holds else PodClass.LEFT
    if over:
        return PodClass.OVER
    if pod.ready:
        settled = not settle or now >= (pod.ready_since or pod.created) + settle
        return PodClass.AVAILABLE if settled else PodClass.SETTLING
    if pod.worker is not None and pod.worker.phase is Phase.DRAINING:
        return PodClass.DISMISSED
    late = now >= pod.created + patience
    if not pod.scheduled:
        return PodClass.UNSCHEDULABLE if pod.unschedulable or late else PodClass.UNSCHEDULED
    waits_for = at_fault(pod).waiting_reason
    if waits_for in _PULL:
        return PodClass.UNPULLABLE
    if waits_for in _CONFIG:
        return PodClass.MISCONFIGURED
    if has_ended(pod):
        return PodClass.CRASHING
    if pod.phase == "Pending":
        return PodClass.STUCK if late else PodClass.CREATING
    return PodClass.LATE if late else PodClass.STARTING
