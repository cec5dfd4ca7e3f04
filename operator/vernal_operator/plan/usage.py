"""The status of a VLLMCheckpoint: what its workers say of it, each start counted once, and who uses it."""

from collections.abc import Sequence
from typing import Any

from vernal_contract.reasons import About, Reason, about
from vernal_contract.state import FreezeOutcome, Phase, StartMode

from vernal_operator.plan import warm
from vernal_operator.plan.conditions import Verdict, conditions, next_step
from vernal_operator.plan.counted import Counted
from vernal_operator.plan.model import CheckpointSnapshot, Event, Manifest, WorkerUse
from vernal_operator.plan.own import own_checkpoint_status
from vernal_operator.plan.times import epoch, precise, stamp


def checkpoint_status(snapshot: CheckpointSnapshot) -> Manifest:
    """The whole status."""
    view, old = snapshot.checkpoint, own_checkpoint_status(snapshot.checkpoint.status)
    workers = sorted(snapshot.workers, key=lambda use: use.started)
    counted = Counted(old.get("counted", []))
    fresh = [use for use in workers if _has_started(use) and counted.lacks(use)]
    generation, since = _generation(workers, old)
    about = (use.worker.artifact for use in reversed(workers) if use.worker.artifact is not None)
    current = next((artifact for artifact in about if artifact.generation == generation), None)
    carried = int(old.get("generationFailures", 0)) if generation == old.get("generation") else 0
    forgiven = _works_again(fresh, generation)
    in_generation = 0 if forgiven else carried + sum(_failed(use, generation) for use in fresh)
    status: Manifest = {
        "observedGeneration": view.generation,
        "generation": generation,
        "generationTime": since,
        "sizeBytes": (size := current.bytes if current else old.get("sizeBytes")),
        "size": None if size is None else gibibytes(size),
        "sharedBytes": current.shared_bytes if current else old.get("sharedBytes"),
        "files": current.files if current else old.get("files"),
        "timings": _timings(workers) or old.get("timings", {}),
        "restores": int(old.get("restores", 0)) + sum(_restored(use) for use in fresh),
        "restoreFailures": int(old.get("restoreFailures", 0)) + sum(bool(use.worker.restore_failures) for use in fresh),
        "generationFailures": in_generation,
        "lastUsedTime": _last_used(fresh, snapshot) or old.get("lastUsedTime"),
        "usedBy": sorted(pool.name for pool in snapshot.users),
        "unusedSince": _unused_since(snapshot),
        "retention": _retention(snapshot) or old.get("retention"),
        "counted": counted.after(snapshot, fresh),
        **warm.status(snapshot, generation),
    }
    verdicts = _verdicts(snapshot, generation, in_generation, forgiven)
    status["conditions"] = conditions(verdicts, old.get("conditions", []), view.generation, snapshot.now)
    return {key: value for key, value in status.items() if value is not None}


def _generation(workers: Sequence[WorkerUse], old: Manifest) -> tuple[str | None, str | None]:
    """The current one, and when the worker started that said so. Who started last saw the store last; that holds also
    when it is gone and others, which thawed an earlier one, are not.
    """
    known, since = old.get("generation"), old.get("generationTime")
    for use in reversed(workers):
        if use.worker.artifact is None:
            continue
        if use.worker.artifact.generation == known and since is not None:
            break
        if since is None or use.started > epoch(since):
            return use.worker.artifact.generation, precise(use.started)
        break
    return known, since


def gibibytes(size: int) -> str:
    """Such as 14.2GiB, for the column of `kubectl get vck`."""
    return f"{size / 2**30:.1f}GiB" if size >= 2**29 else f"{size / 2**30:.3f}GiB"


def _failed(use: WorkerUse, generation: str | None) -> bool:
    """Whether a start failed to thaw a generation, for a reason that speaks against the artifact; one of a newer worker
    does not. However many failures a start tells of, it thaws a generation once.
    """
    return any(
        failure.generation == generation
        and failure.reason in set(Reason)
        and about(Reason(failure.reason)) is About.ARTIFACT
        for failure in use.worker.restore_failures
    )


def _has_started(use: WorkerUse) -> bool:
    """Whether its start has come to an end, so that what it says about it does not change any more."""
    return use.worker.ready or use.worker.phase in (Phase.READY, Phase.DRAINING, Phase.STOPPED, Phase.FAILED)


def _restored(use: WorkerUse) -> bool:
    return use.worker.start_mode == StartMode.RESTORED


def _thawed(use: WorkerUse, generation: str | None) -> bool:
    artifact = use.worker.artifact
    return _restored(use) and artifact is not None and artifact.generation == generation


def _works_again(fresh: Sequence[WorkerUse], generation: str | None) -> bool:
    """Whether the last of the starts, in order, that tried to thaw this generation did: as workers do, one that works
    forgives those that failed before."""
    tried = [use for use in fresh if _restored(use) or use.worker.restore_failures]
    return bool(tried) and _thawed(tried[-1], generation)


def _last_used(fresh: Sequence[WorkerUse], snapshot: CheckpointSnapshot) -> str | None:
    return stamp(snapshot.now) if any(use.worker.artifact is not None for use in fresh) else None


def _timings(workers: Sequence[WorkerUse]) -> dict[str, float]:
    """What the worker that thawed last spent by phase, and how long the freeze took."""
    out: dict[str, float] = {}
    for use in workers:
        if _restored(use):
            out |= {f"thaw.{phase}": round(seconds, 3) for phase, seconds in use.worker.timings.items()}
        report = use.worker.freeze
        if report is not None and report.outcome == FreezeOutcome.PUBLISHED and report.seconds is not None:
            out["freeze"] = round(report.seconds, 3)
    return out


def _unused_since(snapshot: CheckpointSnapshot) -> str | None:
    """An operator that starts anew does not know who uses it until it asked all workers."""
    if snapshot.users:
        return None
    old: str | None = snapshot.checkpoint.status.get("unusedSince")
    return old or (stamp(snapshot.now) if snapshot.workers_known else None)


def _retention(snapshot: CheckpointSnapshot) -> Manifest | None:
    if not snapshot.users:
        return None
    wishes: Manifest = {
        "retain": any(pool.retain for pool in snapshot.users),
        "unusedSeconds": max(pool.unused_seconds for pool in snapshot.users),
    }
    counts = [pool.max_unused for pool in snapshot.users]
    if None not in counts:  # who names none has no limit
        wishes["maxUnused"] = max(count for count in counts if count is not None)
    return wishes


def _verdicts(snapshot: CheckpointSnapshot, generation: str | None, failures: int, forgiven: bool) -> list[Verdict]:
    attempts = _attempts(snapshot, generation)
    by_worker = _said_quarantined(snapshot, generation)
    was = _condition(snapshot, "Quarantined")
    same = generation == snapshot.checkpoint.status.get("generation")
    tired = attempts is not None and failures >= attempts
    before = same and was.get("status") == "True"
    quarantined = by_worker is not None or (generation is not None and not forgiven and (tired or before))
    reports = [use.worker.freeze for use in snapshot.workers if use.worker.freeze is not None]
    freeze = next((r for r in reports if r.outcome == FreezeOutcome.FAILED), None)
    if generation is None:
        reason = (freeze and freeze.reason) or "Pending"
        ready = Verdict("Ready", "False", reason, "no worker has published it yet")
    elif quarantined:
        ready = Verdict("Ready", "False", str(Reason.QUARANTINED), next_step(str(Reason.QUARANTINED)))
    else:
        ready = Verdict("Ready", "True", "Published", f"generation {generation}")
    if freeze is not None and generation is None:
        step = next_step(freeze.reason or "")
        text = ": ".join(part for part in (freeze.message, step) if part)
        failed = Verdict("Failed", "True", freeze.reason or "FreezeFailed", text)
    else:
        failed = Verdict("Failed", "False", "AsExpected", "no freeze has failed")
    if quarantined:
        text = by_worker or f"generation {generation} failed to thaw {failures} times; a cold start makes a new one"
        last = Verdict("Quarantined", "True", str(Reason.QUARANTINED), text)
    else:
        last = Verdict("Quarantined", "False", "AsExpected", "it may be thawed")
    return [ready, failed, last]


def _attempts(snapshot: CheckpointSnapshot, generation: str | None) -> int | None:
    """How many failures are too many: as many as each pool allows that failed to thaw this generation, or has thawed
    it. A pool that gives up early gives it up for nobody who uses it with success.
    """
    concerned = {use.pool for use in snapshot.workers if _failed(use, generation) or _thawed(use, generation)}
    allowed = [pool.restore_attempts for pool in snapshot.users if pool.name in concerned]
    return max(allowed or [pool.restore_attempts for pool in snapshot.users], default=None)


def _said_quarantined(snapshot: CheckpointSnapshot, generation: str | None) -> str | None:
    """What the last worker said that found this generation so, which knows when a new one is made; None if none did.

    A thaw that works forgives it. It speaks for its own pool: where others have thawed this generation, a worker of
    each must have found so.
    """
    thawed = [use for use in snapshot.workers if _thawed(use, generation)]
    last = max((use.started for use in thawed), default=float("-inf"))
    found = [use for use in snapshot.workers if use.started > last and _finds_quarantined(use, generation)]
    if not found or not {use.pool for use in thawed} <= {use.pool for use in found}:
        return None
    return max(found, key=lambda use: use.started).worker.start_message


def _finds_quarantined(use: WorkerUse, generation: str | None) -> bool:
    """Whether it found this generation so, and not one before, whose successor it may have made."""
    said = use.worker.start_reason == Reason.QUARANTINED
    return said and generation is not None and generation in use.worker.start_message


def checkpoint_events(snapshot: CheckpointSnapshot, status: Manifest) -> list[Event]:
    """What turned True in it and was not announced."""
    out = []
    for condition in status["conditions"]:
        kind = condition["type"]
        if condition["status"] != "True" or _condition(snapshot, kind).get("status") == "True":
            continue
        key = f"{kind}/{condition['reason']}/{status.get('generation')}"
        sort = "Normal" if kind == "Ready" else "Warning"
        out.append(Event("Normal" if sort == "Normal" else "Warning", condition["reason"], condition["message"], key))
    return [event for event in out if event.key not in snapshot.announced]


def _condition(snapshot: CheckpointSnapshot, kind: str) -> dict[str, Any]:
    for condition in snapshot.checkpoint.status.get("conditions", []):
        if condition.get("type") == kind:
            return dict(condition)
    return {}
