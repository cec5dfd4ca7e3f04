"""Whether pods 2..N wait: for the first pod's checkpoint, or for the new revision's first pod to prove
itself.
"""

from vernal_contract.config import CheckpointPolicy

from vernal_operator.api.pool import Startup, VLLMWorkerPoolSpec
from vernal_operator.build.pod import startup_seconds
from vernal_operator.plan.census import Census
from vernal_operator.plan.model import PodView
from vernal_operator.plan.polling import was_asked

CRASHES = 3
"""Restarts after which a worker that is not ready counts as unable to start."""


def proven(pods: Census, spec: VLLMWorkerPoolSpec) -> bool:
    """Whether a pod of the wanted revision is ready, and has told whether there is a checkpoint to thaw.

    A worker freezes before it is ready, so a ready one has made its checkpoint or will not.
    """
    disabled = spec.checkpoint.policy == CheckpointPolicy.DISABLED
    return any(pod.ready and (disabled or was_asked(pod)) for pod in pods.new)


def waits_for_checkpoint(pods: Census, spec: VLLMWorkerPoolSpec, *, checkpoint_ready: bool, now: float) -> bool:
    """Whether only one pod may start because the others would start cold."""
    if spec.checkpoint.policy == CheckpointPolicy.DISABLED or spec.checkpoint.startup == Startup.IMMEDIATE:
        return False
    if checkpoint_ready or any(_has_settled(pod) for pod in pods.new):
        return False
    return now < gives_up_waiting(pods, spec, now)


def gives_up_waiting(pods: Census, spec: VLLMWorkerPoolSpec, now: float) -> float:
    """When waiting for the first pod's checkpoint ends in any case, so that one bad node cannot hold a
    pool.
    """
    return min((pod.created for pod in pods.new), default=now) + startup_seconds(spec)


def _has_settled(pod: PodView) -> bool:
    """Published or thawed, given up freezing, or ready without either."""
    worker = pod.worker
    if worker is not None and (worker.artifact is not None or worker.freeze is not None):
        return True
    return pod.ready and was_asked(pod)


def cannot_start(pod: PodView, spec: VLLMWorkerPoolSpec, now: float) -> bool:
    """Whether a pod has had its chance to become ready."""
    if pod.ready:
        return False
    return pod.restarts >= CRASHES or now >= pod.created + startup_seconds(spec)


def is_stalled(pods: Census, spec: VLLMWorkerPoolSpec, now: float) -> bool:
    """Whether a roll has stopped because the wanted revision does not become ready."""
    return (
        bool(pods.old and pods.new) and not proven(pods, spec) and all(cannot_start(pod, spec, now) for pod in pods.new)
    )
