"""`plan`: the one entry for a pool. Each question is answered by a policy in a file of its own."""

from collections.abc import Iterable, Iterator

from vernal_contract import names

from vernal_operator.api.pool import VLLMWorkerPoolSpec
from vernal_operator.build.children import KINDS, children
from vernal_operator.build.meta import Owner, pool_owner
from vernal_operator.build.pod import startup_seconds, worker_pod
from vernal_operator.plan import conditions, polling, rollout, startup
from vernal_operator.plan.census import LOST_AFTER_SECONDS, Census, census, still_draining
from vernal_operator.plan.checkpoints import checkpoints
from vernal_operator.plan.model import (
    ChildKey,
    Decisions,
    DeletePod,
    Manifest,
    ObjectRef,
    PodView,
    Snapshot,
)
from vernal_operator.plan.revision import revision
from vernal_operator.plan.status import events, invalid_status, pool_status

_SOONEST = 0.5


def plan(snapshot: Snapshot) -> Decisions:
    """Decide everything there is to do about a pool."""
    pool, spec = snapshot.pool, snapshot.pool.spec
    if pool.deletion_time is not None:
        return Decisions()  # everything that it owns goes by owner references, also without an operator
    if spec is None:
        return _invalid(snapshot)

    now, wanted = snapshot.now, revision(spec)
    owner = pool_owner(pool.name, pool.namespace, pool.uid)
    pods = census(snapshot.pods, wanted)
    found = checkpoints(pool, spec, wanted, pods.new, snapshot.checkpoints)
    limits = rollout.bounds(spec.replicas, spec.rollout)
    proven = startup.proven(pods, spec)
    waiting = startup.waits_for_checkpoint(
        pods, spec, checkpoint_ready=found.is_ready and not found.is_quarantined, now=now
    )
    draining = still_draining(pods, wanted, now)
    step = rollout.step(
        pods,
        limits,
        proven=proven,
        one_at_first=waiting,
        draining=len(draining),
        wanted_revision=wanted,
        now=now,
    )
    stalled = startup.is_stalled(pods, spec, now)
    verdicts = (
        conditions.is_ready(pods, spec.replicas),
        conditions.checkpoint_ready(pods, spec, found),
        conditions.progressing(pods, spec.replicas, stalled=stalled, waiting=waiting),
        conditions.degraded(pods, spec, found, stalled=stalled, now=now),
    )
    status = pool_status(pool, wanted, pods, found, verdicts, now)
    poll, next_poll = polling.due(pods.alive, now)
    apply, remove = _children(snapshot, owner, spec)
    return Decisions(
        create=tuple(worker_pod(owner, spec, wanted, slot) for slot in _free_slots(snapshot, step.create)),
        create_checkpoints=found.create,
        delete=tuple(_delete(pods, step.delete)),
        apply=apply,
        remove=remove,
        status=None if status == pool.status else status,
        events=tuple(events(pool, status, pods, snapshot.announced, now)),
        poll=poll | step.ask,
        requeue_after=_soonest(
            now,
            next_poll,
            *(pod.deletion_time + LOST_AFTER_SECONDS for pod in draining if pod.deletion_time is not None),
            *_deadlines(pods, spec, now),
        ),
    )


def _invalid(snapshot: Snapshot) -> Decisions:
    """Leave everything as it is and say what is wrong."""
    pool, now = snapshot.pool, snapshot.now
    status = invalid_status(pool, conditions.invalid_spec(pool.spec_error), now)
    found = events(pool, status, census((), ""), snapshot.announced, now)
    return Decisions(status=None if status == pool.status else status, events=tuple(found))


def _free_slots(snapshot: Snapshot, count: int) -> Iterator[int]:
    """The smallest numbers that no pod has, so that deciding again after a lost answer names the same
    pods.
    """
    taken = {pod.slot for pod in snapshot.pods} | snapshot.taken_slots
    slot = 0
    while count > 0:
        if slot not in taken:
            count -= 1
            yield slot
        slot += 1


def _delete(pods: Census, victims: Iterable[tuple[PodView, str]]) -> Iterator[DeletePod]:
    for pod, reason in (*((pod, "Failed") for pod in pods.failed), *victims):
        yield DeletePod(pod.name, pod.uid, pod.resource_version, reason)


def _children(
    snapshot: Snapshot, owner: Owner, spec: VLLMWorkerPoolSpec
) -> tuple[tuple[Manifest, ...], tuple[ObjectRef, ...]]:
    """Children to apply (those whose hash differs) and to remove (those that are not wanted)."""
    wanted = {ChildKey(child["kind"], child["metadata"]["name"]): child for child in children(owner, spec)}
    apply = []
    for key, child in wanted.items():
        there = snapshot.children.get(key)
        if there is None or there.spec_hash != child["metadata"]["annotations"][names.ANNOTATION_SPEC_HASH]:
            apply.append(child)
    unwanted = [
        ObjectRef(key.kind, key.name, view.uid)
        for key, view in snapshot.children.items()
        if key not in wanted and key.kind in KINDS
    ]
    return tuple(apply), tuple(unwanted)


def _deadlines(pods: Census, spec: VLLMWorkerPoolSpec, now: float) -> Iterator[float]:
    """When pods that are not ready will count as unable to start."""
    for pod in pods.alive:
        if not startup.cannot_start(pod, spec, now) and not pod.ready:
            yield pod.created + startup_seconds(spec)


def _soonest(now: float, *moments: float | None) -> float | None:
    known = [moment for moment in moments if moment is not None]
    return max(_SOONEST, min(known) - now) if known else None
