"""Conditions: what to tell people, each as one word and one sentence."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from vernal_contract.config import CheckpointPolicy
from vernal_contract.reasons import NEXT_STEP, Reason
from vernal_contract.state import FreezeOutcome, Phase, WorkerState

from vernal_operator.api.common import is_zero
from vernal_operator.api.pool import VLLMWorkerPoolSpec
from vernal_operator.plan import refused as refusals
from vernal_operator.plan.census import Census
from vernal_operator.plan.checkpoints import Checkpoints
from vernal_operator.plan.farewell import farewell
from vernal_operator.plan.model import Manifest, PodView, Pool, Refused
from vernal_operator.plan.pods import MEANING, PodClass, at_fault, has_ended, serves
from vernal_operator.plan.polling import Heard, heard
from vernal_operator.plan.proving import Standing
from vernal_operator.plan.texts import cut
from vernal_operator.plan.times import stamp

_MAX_NAMED = 3
_REASON = re.compile(r"[A-Za-z]([A-Za-z0-9_,:]{0,254}[A-Za-z0-9_])?")  # as the schema; a worker's word may be none


@dataclass(frozen=True, slots=True)
class Verdict:
    """A condition without its times."""

    type: str
    status: Literal["True", "False", "Unknown"]
    reason: str
    message: str


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
                "reason": verdict.reason if _REASON.fullmatch(verdict.reason) else "Unknown",
                "message": cut(verdict.message),
            }
        )
    return out


# --- Ready --------------------------------------------------------------------------------------------------


def is_ready(pods: Census, replicas: int) -> Verdict:
    return _ready(pods.ready(pods.alive), replicas)


def _ready(count: int, replicas: int) -> Verdict:
    if replicas == 0:
        return Verdict("Ready", "True", "ScaledToZero", "spec.replicas is 0")
    message = f"{min(count, replicas)} of {replicas} replicas are ready"
    if count >= replicas:
        return Verdict("Ready", "True", "AllReady", message)
    why = f"{message}: the conditions Progressing and Degraded say why"
    return Verdict("Ready", "False", "TooFewReady" if count else "NoneReady", why)


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
    serving = [pod for pod in pods.new if pods.meaning(pod).ready]
    settled = [pod.worker for pod in serving if heard(pod) is Heard.READY and pod.worker]
    if settled:
        return _why_none(settled)
    silent = [pod for pod in serving if heard(pod) is Heard.SILENCE]
    if silent:
        message = f"{_named(silent)} did not answer on the admin port: check that the operator can reach it"
        return Verdict(kind, "Unknown", "WorkerUnreachable", message)
    return Verdict(kind, "False", "Pending", "no worker has started yet: the condition Progressing says what goes on")


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


def progressing(
    pods: Census,
    at: Standing,
    *,
    waiting: bool,
    held: bool,
    renewing: bool = False,
    refused: Sequence[Refused] = (),
) -> Verdict:
    kind, spec, count = "Progressing", at.target.spec, len(pods.new)
    no_pod = [one for one in refused if (one.verb, one.kind) == ("create", "Pod")]
    if no_pod:
        return Verdict(kind, "False", no_pod[0].reason, refusals.sentence(no_pod))
    if at.rejected is not None:
        return Verdict(kind, "False", "ProgressDeadlineExceeded", at.rejected["message"])
    if held and spec.rollout.paused:
        return Verdict(kind, "False", "RolloutPaused", "spec.rollout.paused is true: set it to false to go on")
    if held and at.fallback is not None and at.deadline is not None:
        message = f"missing pods are made of {at.fallback.revision} until one of {at.wanted} is proven"
        return Verdict(kind, "True", "Proving", f"{message}, for which it has until {stamp(at.deadline)}")
    if pods.old or (at.fallback is not None and not held):
        message = f"{count} pods of the new revision, {pods.available(pods.new)} of them available, {len(pods.old)} of "
        next_one = "" if at.deadline is None else f"; the next one has until {stamp(at.deadline)} to be available"
        return Verdict(kind, "True", "RollingOut", f"{message}old ones{next_one}")
    if renewing:
        return Verdict(kind, "True", "RenewingCheckpoint", _renewing(spec))
    if count > spec.replicas:
        return Verdict(kind, "True", "ScalingDown", f"from {count} to {spec.replicas} pods")
    if waiting and count < spec.replicas:
        return Verdict(kind, "True", "WaitingForCheckpoint", "the other pods wait for the first one's checkpoint")
    if count < spec.replicas:
        return Verdict(kind, "True", "ScalingUp", f"from {count} to {spec.replicas} pods")
    starting = count - pods.ready(pods.new)
    if starting:
        return Verdict(kind, "True", "Starting", f"{starting} of {count} pods are not ready")
    return Verdict(kind, "False", "Settled", "all pods are as they should be")


def _renewing(spec: VLLMWorkerPoolSpec) -> str:
    if spec.replicas == 0:
        return "the first pod that is made will make a new checkpoint: spec.replicas is 0"
    if is_zero(spec.rollout.max_surge):
        return "the next pod that is made will make a new checkpoint: there is no place for one more (maxSurge is 0)"
    return "one more pod makes a new checkpoint, as the annotation vernal.dev/renew-checkpoint asks"


def with_waits(verdict: Verdict, pods: Census) -> Verdict:
    """`progressing` with what starts wait for: they go on by themselves, or end with a reason of their own."""
    waiting = [pod for pod in pods.alive if _waits(pod)]
    if verdict.type != "Progressing" or verdict.status != "True" or not waiting:
        return verdict
    return replace(verdict, message=f"{verdict.message}; {_named(waiting)}: {_waits(waiting[0])}")


def _waits(pod: PodView) -> str:
    """What the start of its worker waits for, by the worker's own word; "" if it waits for nothing."""
    waits = pod.worker is not None and not pod.ready and pod.worker.waiting_for
    return f"the start waits for {waits}" if waits else ""


# --- Degraded -----------------------------------------------------------------------------------------------


def degraded(pods: Census, at: Standing, found: Checkpoints, refused: Sequence[Refused] = ()) -> Verdict:
    """The worst thing that is wrong."""
    # No new pod at all is worse than pods that do not start, and that is worse than a Service that is not ours.
    refused = sorted(refused, key=lambda one: one.kind != "Pod")
    if refused and refused[0].kind == "Pod":
        return Verdict("Degraded", "True", refused[0].reason, refusals.sentence(refused))
    if at.rejected is not None:
        return Verdict("Degraded", "True", "ProgressDeadlineExceeded", at.rejected["message"])
    fault = worst(pods, pods.alive)
    if fault is not None:
        return Verdict("Degraded", "True", *fault)
    if refused:
        return Verdict("Degraded", "True", refused[0].reason, refusals.sentence(refused))
    doubted = [pod for pod in pods.alive if pods.meaning(pod).ready and _failed_to_thaw(pod, found)]
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


def invalid(pool: Pool, pods: Iterable[PodView]) -> list[Verdict]:
    """Of a pool whose spec is not understood: what is wrong, and whether its pods serve on. None is made."""
    wrong = invalid_spec(pool.spec_error)
    return [wrong] if pool.asked is None else [_ready(sum(map(serves, pods)), pool.asked), wrong]


_HEARD_OF = {"Degraded": ("AsExpected", ("ThawFailed",)), "CheckpointReady": ("Pending", None)}
"""What is said where no worker has told anything, and instead of which reasons (None: any)."""


def until_heard(verdicts: Iterable[Verdict], old: Iterable[Mapping[str, Any]]) -> list[Verdict]:
    """As they were where only workers know better, and some that serve were not asked yet: an operator that starts anew
    must not tell in between that nothing is wrong.
    """
    before = {c.get("type"): c for c in old}
    out = []
    for verdict in verdicts:
        last, (reason, known) = before.get(verdict.type), _HEARD_OF.get(verdict.type, ("", ()))
        if last is not None and verdict.reason == reason and (known is None or last["reason"] in known):
            out.append(Verdict(verdict.type, last["status"], last["reason"], last["message"]))
        else:
            out.append(verdict)
    return out


def _failed_to_thaw(pod: PodView, found: Checkpoints) -> bool:
    """Whether it met a checkpoint that is still the current one."""
    if pod.worker is None or found.reference is None:
        return False
    return any(f.generation == found.reference.get("generation") for f in pod.worker.restore_failures)


def worst(pods: Census, among: Sequence[PodView]) -> tuple[str, str] | None:
    """Reason and sentence of the worst fault of pods, or None if there is none."""
    for sort in PodClass:
        affected = pods.among(among, sort)
        if affected and MEANING[sort].fault:
            crashed = sort is PodClass.CRASHING
            reason = farewell(affected[0]).reason if crashed else MEANING[sort].fault
            return reason, f"{_named(affected)}: {_detail(affected[0])}"
    return None


def what_failed(pods: Census, told: Iterable[Mapping[str, Any]] = ()) -> str:
    """Why no further new pod is available, in a few words. `told`: the conditions as they are, which say what pods were
    refused: the plan that rejects makes none.
    """
    fault = worst(pods, pods.new)
    if fault is not None:
        return f"{fault[0]}: {fault[1]}"
    for last in told:
        if (last.get("type"), last.get("status")) == ("Progressing", "False") and last["reason"] in refusals.NEXT_STEP:
            return f"{last['reason']}: {last['message'].removesuffix(refusals.AGAIN)}"
    if not pods.new:
        return "there is no pod of it"
    settling = pods.among(pods.new, PodClass.SETTLING)
    if settling:
        return f"{_named(settling)}: ready for less than spec.rollout.minReadySeconds"
    starting = [pod for pod in pods.new if not pods.meaning(pod).ready]
    return f"{_named(starting)}: {_detail(starting[0])}" if starting else "there is no further pod of it"


def _detail(pod: PodView) -> str:
    """Why a pod is not ready, as far as one can see."""
    if pod.unschedulable:
        return pod.unschedulable
    if (start := _waits(pod)) and not pod.restarts:  # else how it ended says more
        return start
    if pod.gates:
        return f"waits for who opens its scheduling gate {', '.join(pod.gates)}: see `kubectl describe pod {pod.name}`"
    if has_ended(pod):
        return str(farewell(pod))
    worker, waits_for = pod.worker, at_fault(pod).waiting_reason
    if pod.beside is not None and waits_for:
        return f"container {pod.beside.name}: {waits_for}: see `kubectl describe pod {pod.name}`"
    said = worker.last_error if worker is not None and worker.last_error else ""
    waits = f"{waits_for}: see `kubectl describe pod {pod.name}`" if waits_for else ""
    return said or waits or f"not ready: see `kubectl logs {pod.name}`"


def _named(pods: Sequence[PodView]) -> str:
    listed = ", ".join(pod.name for pod in pods[:_MAX_NAMED])
    more = f" and {len(pods) - _MAX_NAMED} more" if len(pods) > _MAX_NAMED else ""
    return f"pod {listed}" if len(pods) == 1 else f"pods {listed}{more}"
