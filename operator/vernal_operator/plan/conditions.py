"""Conditions: what to tell people, each as one word and one sentence."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal

from vernal_contract.config import CheckpointPolicy
from vernal_contract.reasons import NEXT_STEP, Reason
from vernal_contract.state import FreezeOutcome, Phase, WorkerState

from vernal_operator.api.pool import VLLMWorkerPoolSpec
from vernal_operator.plan.census import Census, ready
from vernal_operator.plan.checkpoints import Checkpoints
from vernal_operator.plan.model import Manifest, PodView
from vernal_operator.plan.polling import is_known, was_asked
from vernal_operator.plan.startup import cannot_start

_MAX_NAMED = 3


@dataclass(frozen=True, slots=True)
class Verdict:
    """A condition without its times."""

    type: str
    status: Literal["True", "False", "Unknown"]
    reason: str
    message: str


def stamp(moment: float) -> str:
    """RFC 3339 in UTC, whole seconds, as the API server writes it."""
    return datetime.fromtimestamp(int(moment), UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def conditions(
    verdicts: Iterable[Verdict], old: Iterable[Mapping[str, Any]], generation: int, now: float
) -> list[Manifest]:
    """Conditions as they are written. `lastTransitionTime` changes when `status` does and not otherwise."""
    before = {c.get("type"): c for c in old}
    out = []
    for verdict in verdicts:
        last = before.get(verdict.type, {})
        same = last.get("status") == verdict.status and "lastTransitionTime" in last
        out.append(
            {
                "type": verdict.type,
                "status": verdict.status,
                "observedGeneration": generation,
                "lastTransitionTime": last["lastTransitionTime"] if same else stamp(now),
                "reason": verdict.reason,
                "message": verdict.message,
            }
        )
    return out


# --- Ready --------------------------------------------------------------------------------------------------


def is_ready(pods: Census, replicas: int) -> Verdict:
    if replicas == 0:
        return Verdict("Ready", "True", "ScaledToZero", "spec.replicas is 0")
    count = ready(pods.alive)
    message = f"{min(count, replicas)} of {replicas} replicas are ready"
    if count >= replicas:
        return Verdict("Ready", "True", "AllReady", message)
    return Verdict("Ready", "False", "TooFewReady" if count else "NoneReady", message)


# --- CheckpointReady ----------------------------------------------------------------------------------------


def checkpoint_ready(pods: Census, spec: VLLMWorkerPoolSpec, found: Checkpoints) -> Verdict:
    kind = "CheckpointReady"
    if spec.checkpoint.policy == CheckpointPolicy.DISABLED:
        return Verdict(kind, "False", "Disabled", "spec.checkpoint.policy is Disabled")
    if found.reference is not None:
        name = found.reference["name"]
        if found.is_quarantined:
            why = f"{name} failed too often: {NEXT_STEP[Reason.QUARANTINED]}"
            return Verdict(kind, "False", str(Reason.QUARANTINED), why)
        if found.is_ready or any(p.worker and p.worker.artifact for p in pods.new):
            return Verdict(kind, "True", "Published", f"new pods thaw {name}")
    workers = [pod.worker for pod in pods.new if pod.worker is not None]
    if any(worker.phase == Phase.FREEZING for worker in workers):
        return Verdict(kind, "False", "Freezing", "the first worker is being frozen")
    settled = [pod.worker for pod in pods.new if pod.ready and is_known(pod) and pod.worker is not None]
    if settled:
        return _why_none(settled)
    silent = [pod for pod in pods.new if pod.ready and was_asked(pod)]
    if silent:
        message = f"{_named(silent)} did not answer on the admin port: check that the operator can reach it"
        return Verdict(kind, "Unknown", "WorkerUnreachable", message)
    return Verdict(kind, "False", "Pending", "no worker has started yet")


def _why_none(workers: Sequence[WorkerState]) -> Verdict:
    """Workers serve and there is no checkpoint: the best explanation that one of them gives."""
    failed = [w for w in workers if w.freeze is not None and w.freeze.outcome == FreezeOutcome.FAILED]
    worker = (failed or list(workers))[0]
    report = worker.freeze
    reason = (report and report.reason) or worker.start_reason or str(Reason.NO_ARTIFACT)
    said = (report and report.message) or worker.start_message
    lines = [f"pod {worker.pod} serves without a checkpoint ({reason})", said or "", next_step(reason)]
    return Verdict(
        "CheckpointReady",
        "False",
        "FreezeFailed" if failed else reason,
        ": ".join(line for line in lines if line),
    )


def next_step(reason: str) -> str:
    """What to do about a reason code, or nothing if it is none."""
    known = Reason(reason) if reason in set(Reason) else None
    return NEXT_STEP.get(known, "") if known else ""


# --- Progressing --------------------------------------------------------------------------------------------


def progressing(pods: Census, replicas: int, *, stalled: bool, waiting: bool) -> Verdict:
    kind = "Progressing"
    if pods.old and stalled:
        return Verdict(kind, "False", "RolloutStalled", "the new revision does not become ready")
    if pods.old:
        message = f"{len(pods.new)} pods of the new revision, {len(pods.old)} of old ones"
        return Verdict(kind, "True", "RollingOut", message)
    if len(pods.new) > replicas:
        return Verdict(kind, "True", "ScalingDown", f"from {len(pods.new)} to {replicas} pods")
    if waiting and len(pods.new) < replicas:
        return Verdict(kind, "True", "WaitingForCheckpoint", "the other pods wait for the first one's checkpoint")
    if len(pods.new) < replicas:
        return Verdict(kind, "True", "ScalingUp", f"from {len(pods.new)} to {replicas} pods")
    starting = len(pods.new) - ready(pods.new)
    if starting:
        return Verdict(kind, "True", "Starting", f"{starting} of {len(pods.new)} pods are not ready")
    return Verdict(kind, "False", "Settled", "all pods are as they should be")


# --- Degraded -----------------------------------------------------------------------------------------------

_PULL = ("ErrImagePull", "ImagePullBackOff", "InvalidImageName", "ErrImageNeverPull", "ImageInspectError")
_CONFIG = ("CreateContainerConfigError", "CreateContainerError", "RunContainerError")


def degraded(pods: Census, spec: VLLMWorkerPoolSpec, found: Checkpoints, *, stalled: bool, now: float) -> Verdict:
    """The worst thing that is wrong."""
    if stalled:
        return Verdict("Degraded", "True", "RolloutStalled", _stalled(pods))
    waiting = [pod for pod in pods.alive if not pod.ready]
    sorts = (
        ("ImagePullFailed", [pod for pod in waiting if pod.waiting_reason in _PULL]),
        ("ContainerConfigInvalid", [pod for pod in waiting if pod.waiting_reason in _CONFIG]),
        ("Crashing", [pod for pod in waiting if pod.restarts and pod.last_exit_code is not None]),
        ("Unschedulable", [pod for pod in waiting if pod.unschedulable]),
        ("StartTimeout", [pod for pod in waiting if cannot_start(pod, spec, now)]),
    )
    for reason, affected in sorts:
        if affected:
            return Verdict("Degraded", "True", reason, f"{_named(affected)}: {_detail(affected[0])}")
    doubted = [pod for pod in pods.alive if pod.ready and _failed_to_thaw(pod, found)]
    if doubted and doubted[0].worker is not None:
        failure = doubted[0].worker.restore_failures[-1]
        lines = [
            f"{_named(doubted)} could not thaw and started cold",
            f"{failure.reason} at stage {failure.stage}",
            failure.message,
            next_step(failure.reason),
        ]
        return Verdict("Degraded", "True", "ThawFailed", ": ".join(line for line in lines if line))
    return Verdict("Degraded", "False", "AsExpected", "nothing is known to be wrong")


def invalid_spec(error: str) -> Verdict:
    return Verdict("Degraded", "True", "InvalidSpec", f"nothing is changed until this is put right: {error}")


def _failed_to_thaw(pod: PodView, found: Checkpoints) -> bool:
    """Whether it met a checkpoint that is still the current one."""
    if pod.worker is None or found.reference is None:
        return False
    return any(f.generation == found.reference.get("generation") for f in pod.worker.restore_failures)


def _stalled(pods: Census) -> str:
    keep = f"{ready(pods.old)} ready pods of the old one keep serving" if pods.old else "no old pod is left"
    detail = _detail(pods.new[0])
    what = f"the new revision does not become ready ({pods.new[0].name}: {detail})"
    return f"{what}; {keep}: correct spec or revert it"


def _detail(pod: PodView) -> str:
    """Why a pod is not ready, as far as one can see."""
    if pod.unschedulable:
        return pod.unschedulable
    worker = pod.worker
    said = worker.last_error if worker is not None and worker.last_error else ""
    if pod.restarts and pod.last_exit_code is not None:
        why = f"exit code {pod.last_exit_code}" + (f" ({pod.last_exit_reason})" if pod.last_exit_reason else "")
        return f"{why}: {said}" if said else f"{why}: see `kubectl logs {pod.name} --previous`"
    return said or pod.waiting_reason or f"not ready: see `kubectl logs {pod.name}`"


def _named(pods: Sequence[PodView]) -> str:
    listed = ", ".join(pod.name for pod in pods[:_MAX_NAMED])
    more = f" and {len(pods) - _MAX_NAMED} more" if len(pods) > _MAX_NAMED else ""
    return f"pod {listed}" if len(pods) == 1 else f"pods {listed}{more}"
