"""The status of a pool, and the Events that go with what changed in it."""

from collections.abc import Iterable, Sequence
from typing import Any

from vernal_contract.state import FreezeOutcome, StartMode

from vernal_operator.build.meta import selector
from vernal_operator.plan.census import Census
from vernal_operator.plan.conditions import Verdict, conditions, next_step
from vernal_operator.plan.model import Event, Manifest, PodView, Pool
from vernal_operator.plan.own import own_pool_status
from vernal_operator.plan.pods import is_over, serves
from vernal_operator.plan.polling import Heard, heard
from vernal_operator.plan.proving import Standing

ANNOUNCE_SECONDS = 600.0
"""How old a start may be to be announced. After a restart of the operator nobody wants them all again."""


def pool_status(
    pool: Pool,
    at: Standing,
    pods: Census,
    checkpoint: Manifest | None,
    failed: Sequence[Manifest],
    verdicts: Sequence[Verdict],
    now: float,
) -> Manifest:
    """The whole status."""
    restored, cold = _starts(pool, pods)
    updated = [pod for pod in pods.alive if pod.revision == at.wanted]
    status: Manifest = at.status() | {
        "observedGeneration": pool.generation,
        "selector": selector(pool.name),
        "replicas": len(pods.alive),
        "readyReplicas": pods.ready(pods.alive),
        "updatedReplicas": len(updated),
        # Only in a roll: an API server whose CRDs are older refuses the whole status for it.
        "updatedAvailableReplicas": (pods.available(updated) or None) if at.fallback is not None else None,
        "restoredReplicas": restored,
        "coldStartedReplicas": cold,
        "conditions": conditions(verdicts, pool.status.get("conditions", []), pool.generation, now),
    }
    if checkpoint is not None:
        status["checkpoint"] = {k: v for k, v in checkpoint.items() if v is not None}
    if failed:
        status["failedPods"] = list(failed)
    return {key: value for key, value in status.items() if value is not None}


def invalid_status(pool: Pool, verdicts: Sequence[Verdict], pods: Sequence[PodView], now: float) -> Manifest:
    """The status as it was, with what is wrong with the spec, and how many pods are left."""
    was = own_pool_status(pool.status)
    before = was.get("conditions", [])
    kinds = {verdict.type for verdict in verdicts}
    return was | {
        "observedGeneration": pool.generation,
        "replicas": sum(pod.deletion_time is None and not is_over(pod) for pod in pods),
        "readyReplicas": sum(serves(pod) for pod in pods),
        "conditions": [
            *(c for c in before if c["type"] not in kinds),
            *conditions(verdicts, before, pool.generation, now),
        ],
    }


def _starts(pool: Pool, pods: Census) -> tuple[int, int]:
    """Ready pods that thawed and that started cold. As they were while some were never asked: an operator
    that starts anew must not report a pool of cold pods in between.
    """
    serving = [pod for pod in pods.alive if pods.meaning(pod).ready]
    if any(pod.polled_at is None for pod in serving):
        return int(pool.status.get("restoredReplicas", 0)), int(pool.status.get("coldStartedReplicas", 0))
    modes = [pod.worker.start_mode for pod in serving if pod.worker and heard(pod) is Heard.READY]
    return modes.count(StartMode.RESTORED), modes.count(StartMode.COLD)


def events(
    pool: Pool, status: Manifest, alive: Iterable[PodView], announced: frozenset[str], now: float
) -> list[Event]:
    """What is worth an Event and was not announced."""
    out = _transitions(pool, status)
    for pod in alive:
        out += _doubt(pod)
        since = pod.ready_since or pod.created
        if pod.worker is not None and now - since <= ANNOUNCE_SECONDS:
            out += _worker(pod)
    return [event for event in out if event.key not in announced]


_DOUBTED = "use the worker image of the operator's release; if it is that, look into the pod, and delete it"


def _doubt(pod: PodView) -> list[Event]:
    """That what its worker says is not believed, whenever it says so."""
    if not pod.doubt:
        return []
    text = f"what pod {pod.name} says of checkpoints is not believed ({pod.doubt}): {_DOUBTED}"
    return [Event("Warning", "AnswerDoubted", text, f"{pod.uid}/{pod.restarts}/doubt")]


_WORTH_SAYING = {
    ("Degraded", "True"): "Warning",
    ("CheckpointReady", "True"): "Normal",
    ("Ready", "True"): "Normal",
}


def _transitions(pool: Pool, status: Manifest) -> list[Event]:
    before: dict[Any, Any] = {c.get("type"): c for c in pool.status.get("conditions", [])}
    out = []
    for condition in status["conditions"]:
        kind = _WORTH_SAYING.get((condition["type"], condition["status"]))
        old = before.get(condition["type"], {})
        if kind is None or (old.get("status"), old.get("reason")) == (
            condition["status"],
            condition["reason"],
        ):
            continue
        key = f"{condition['type']}/{condition['reason']}/{condition['lastTransitionTime']}"
        out.append(Event("Warning" if kind == "Warning" else "Normal", condition["reason"], condition["message"], key))
    return out


def _worker(pod: PodView) -> list[Event]:
    worker = pod.worker
    assert worker is not None
    start = f"{pod.uid}/{pod.restarts}"
    out = []
    for failure in worker.restore_failures:
        text = f"pod {pod.name} could not thaw at stage {failure.stage}: {failure.message}"
        key = f"{start}/thaw/{failure.generation}/{failure.reason}"
        out.append(Event("Warning", failure.reason, _with_step(text, failure.reason), key))
    report = worker.freeze
    if report is not None and report.outcome == FreezeOutcome.FAILED:
        reason = report.reason or "FreezeFailed"
        text = f"pod {pod.name} could not be frozen: {report.message}"
        out.append(Event("Warning", reason, _with_step(text, reason), f"{start}/freeze/{reason}"))
    if pod.ready and heard(pod) is Heard.READY and worker.start_mode is not None and worker.start_reason:
        mode = "thawed" if worker.start_mode == StartMode.RESTORED else "started cold"
        seconds = worker.timings.get("total")
        text = f"pod {pod.name} {mode}" + (f" in {seconds:.1f} s" if seconds is not None else "")
        text += f": {worker.start_message}" if worker.start_message else ""
        out.append(Event("Normal", worker.start_reason, text, f"{start}/start/{worker.start_reason}"))
    return out


def _with_step(text: str, reason: str) -> str:
    step = next_step(reason)
    return f"{text}; {step}" if step else text
