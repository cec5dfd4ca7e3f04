"""A new checkpoint on demand: what the annotation vernal.dev/renew-checkpoint of a pool asks for.

A text that is not the last one is a request. It names the generations that were current when it came; a pod that is
made under it does not thaw those, so the first one for each kind of node starts cold and makes a new generation, and
the others thaw that. No pod is replaced for it. A pool that has all its pods, and room for one more (maxSurge), makes
one: when it has made the checkpoint there is a pod too many, and one goes as in any change of scale.

    Pending     some pod that was made under the request has yet to tell, or there is none
    Renewed     one has a generation that the request does not name
    Failed      all are available, and none has; from then on pods thaw what there is

The request is written down before a pod is made under it; no clock decides anything.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from vernal_contract.config import CheckpointPolicy

from vernal_operator.api.pool import VLLMWorkerPoolSpec
from vernal_operator.build.pod import Renew
from vernal_operator.plan.census import Census
from vernal_operator.plan.model import Event, Manifest, PodView, Pool
from vernal_operator.plan.pods import PodClass
from vernal_operator.plan.polling import was_asked
from vernal_operator.plan.texts import cut


@dataclass(frozen=True, slots=True)
class Renewal:
    """A request. `replaces`: generations."""

    request: str
    replaces: tuple[str, ...]
    outcome: Literal["Pending", "Renewed", "Failed"] = "Pending"
    message: str = "the first pod that is made from now on makes a new checkpoint"

    @property
    def pending(self) -> bool:
        return self.outcome == "Pending"

    def pods(self) -> Renew | None:
        """What pods are made with."""
        return None if self.outcome == "Failed" else Renew(self.request, self.replaces)

    def status(self) -> Manifest:
        out = {"request": self.request, "replaces": list(self.replaces), "outcome": self.outcome}
        return out | {"message": cut(self.message)}

    def makers(self, pods: Census) -> frozenset[str]:
        """Uids of live pods that were made under the request."""
        return frozenset(pod.uid for pod in pods.alive if pod.renew == self.request)


def standing(pool: Pool) -> Renewal | None:
    """The request that was written down, if it is still the one."""
    seen = pool.status.get("renewal")
    if not isinstance(seen, dict) or seen.get("request") != pool.renew or not pool.renew:
        return None
    return Renewal(seen["request"], tuple(seen.get("replaces", [])), seen["outcome"], seen.get("message", ""))


def advanced(
    before: Renewal | None, pool: Pool, spec: VLLMWorkerPoolSpec, listed: Sequence[Manifest], pods: Census
) -> Renewal | None:
    """What is true of it after a look at the pods. `listed`: `status.checkpoints`."""
    if not pool.renew or spec.checkpoint.policy == CheckpointPolicy.DISABLED:
        return None
    if before is None:
        return Renewal(pool.renew, tuple(sorted({entry["generation"] for entry in listed if "generation" in entry})))
    if not before.pending:
        return before
    makers = [pod for pod in pods.new if pod.renew == before.request]
    told = [pod for pod in pods.among(makers, PodClass.AVAILABLE) if was_asked(pod)]
    for pod in told:
        worker = pod.worker
        if worker is not None and worker.artifact is not None and worker.artifact.generation not in before.replaces:
            message = f"pod {pod.name} has generation {worker.artifact.generation}"
            return replace(before, outcome="Renewed", message=message)
    return _failed(before, told[0]) if told and len(told) == len(makers) else before


def ended(before: Mapping[str, Any], after: Manifest | None) -> str | None:
    """The outcome of a request that a new status is the first to tell; None if it tells none."""
    was, now = before.get("renewal") or {}, (after or {}).get("renewal") or {}
    outcome: str | None = now.get("outcome")
    told = (was.get("request"), was.get("outcome")) == (now.get("request"), outcome)
    return None if told or outcome == "Pending" else outcome


def events(before: Renewal | None, after: Renewal | None, announced: frozenset[str]) -> list[Event]:
    """That it has ended."""
    if before is None or after is None or before.outcome == after.outcome or after.pending:
        return []
    key = f"renewal/{after.request}/{after.outcome}"
    renewed = after.outcome == "Renewed"
    reason = "CheckpointRenewed" if renewed else "RenewalFailed"
    event = Event("Normal" if renewed else "Warning", reason, after.message, key)
    return [] if key in announced else [event]


def _failed(before: Renewal, pod: PodView) -> Renewal:
    report = None if pod.worker is None else pod.worker.freeze
    why = report.message if report is not None and report.message else "its worker does not say why"
    step = "to try again, change the annotation vernal.dev/renew-checkpoint"
    return replace(before, outcome="Failed", message=f"pod {pod.name} has made no checkpoint: {why}: {step}")
