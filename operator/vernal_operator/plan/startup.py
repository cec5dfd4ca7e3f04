"""Whether pods 2..N wait: for the first pod's checkpoint, or for the new revision's first pod to prove
itself.
"""

from vernal_contract.config import CheckpointPolicy

from vernal_operator.api.checkpointing import Startup
from vernal_operator.api.pool import VLLMWorkerPoolSpec
from vernal_operator.build.pod import startup_seconds
from vernal_operator.plan.census import Census
from vernal_operator.plan.model import PodView
from vernal_operator.plan.pods import PodClass
from vernal_operator.plan.polling import was_asked


def proven(pods: Census, spec: VLLMWorkerPoolSpec) -> bool:
    """Whether a pod of the target revision is available, and has told whether there is a checkpoint to thaw.

    A worker freezes before it is ready, so a ready one has made its checkpoint or will not.
    """
    disabled = spec.checkpoint.policy == CheckpointPolicy.DISABLED
    return any(disabled or was_asked(pod) for pod in pods.among(pods.new, PodClass.AVAILABLE))


def waits_for_checkpoint(pods: Census, spec: VLLMWorkerPoolSpec, *, checkpoint_ready: bool, now: float) -> bool:
    """Whether only one pod may start because the others would start cold."""
    if spec.checkpoint.policy == CheckpointPolicy.DISABLED or spec.checkpoint.startup == Startup.IMMEDIATE:
        return False
    if checkpoint_ready or any(_has_settled(pod) for pod in pods.new):
        return False
    # In any case not longer than the first start may take, so that one bad node cannot hold a pool.
    return now < min((pod.created for pod in pods.new), default=now) + startup_seconds(spec)


def _has_settled(pod: PodView) -> bool:
    """Published or thawed, given up freezing, or ready without either."""
    worker = pod.worker
    if worker is not None and (worker.artifact is not None or worker.freeze is not None):
        return True
    return pod.ready and was_asked(pod)
