"""`plan`: the one entry for a pool. Each question is answered by a policy in a file of its own."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

from vernal_contract import names
from vernal_contract.config import CheckpointPolicy

from vernal_operator.api.pool import VLLMWorkerPoolSpec
from vernal_operator.build.children import children
from vernal_operator.build.meta import Owner, pool_owner
from vernal_operator.build.pod import startup_seconds, worker_pod
from vernal_operator.build.waker import waker_slice
from vernal_operator.kinds import SLICES
from vernal_operator.plan import backoff, conditions, hosts, polling, proving, renewal, rollout, startup, zero
from vernal_operator.plan.census import Census, census
from vernal_operator.plan.checkpoints import checkpoints, known_reference
from vernal_operator.plan.model import (
    ChildKey,
    ChildView,
    Decisions,
    DeletePod,
    Event,
    Manifest,
    ObjectRef,
    PodView,
    Snapshot,
)
from vernal_operator.plan.own import is_as_applied, own_pool_status, to_write
from vernal_operator.plan.pods import LOST_AFTER_SECONDS, PodClass
from vernal_operator.plan.polling import Heard, heard
from vernal_operator.plan.proving import Recipe, Standing
from vernal_operator.plan.status import events, invalid_status, pool_status

AT_ONCE = 10
"""Pods that one plan makes or deletes at most: the next one sees what became of them, and a slow API server cannot hold
a reconcile for minutes.
"""
_SOONEST = 0.5


def plan(snapshot: Snapshot) -> Decisions:
    """Decide everything there is to do about a pool."""
    pool, live = snapshot.pool, snapshot.pool.spec
    if pool.deletion_time is not None:
        return Decisions()  # everything that it owns goes by owner references, also without an operator
    if live is None:
        return _invalid(snapshot)

    now = snapshot.now
    owner = pool_owner(pool.name, pool.namespace, pool.uid)
    before = proving.standing(snapshot, live)
    target, spec = before.target.revision, before.target.spec
    pods = census(snapshot.pods, target, spec, now)
    found = checkpoints(pool, spec, target, pods.new, snapshot.checkpoints)
    waiting = startup.waits_for_checkpoint(
        pods, spec, checkpoint_ready=found.is_ready and not found.is_quarantined, now=now
    )
    proven = startup.proven(pods, spec)
    listed = _listed(snapshot, before, pods)
    asked = renewal.standing(pool)
    renewing = renewal.advanced(asked, pool, spec, listed, pods)
    why = conditions.what_failed(pods, pool.status.get("conditions", []))
    after = proving.advanced(before, pods, proven=proven, what_failed=why, now=now, looked_since=snapshot.looked_since)
    rules = rollout.Rules(
        released=proven or before.trusted,
        paused=spec.rollout.paused and not before.trusted,
        current=before.current,
        can_fill=before.fallback is not None,
        one_at_first=waiting,
        makers=asked.makers(pods) if asked is not None and asked.pending else None,
        why="RolledBack" if before.rejected is not None else "Rollout",
    )
    step = rollout.step(pods, rollout.bounds(spec.replicas, spec.rollout), rules, now)
    if before.fallback is not None and before.available and not proven and _unheard(pods, pods.new):
        step = replace(step, fill=0)  # they are being asked: an operator that starts anew has not lost a proof
    if after.rejected is not None and before.rejected is None:
        step = rollout.Step()  # the rejection is written down before the pods that show why go

    revisions = before.wanted, before.current
    failed = backoff.failures(pool.status.get("failedPods", []), snapshot.pods, pods.over, revisions, now)
    create, held_back = _create(snapshot, owner, before, step, failed, asked)
    verdicts = (
        conditions.is_ready(pods, spec.replicas),
        conditions.checkpoint_ready(pods, spec, found),
        conditions.progressing(
            pods,
            after,
            waiting=waiting,
            held=rollout.is_held(pods, rules),
            renewing=asked is not None and asked.pending,
            refused=snapshot.refused,
        ),
        conditions.degraded(pods, after, found, snapshot.refused),
    )
    reference = found.reference
    if before.fallback is not None and not proven:  # missing pods thaw the old one, so it stays in use
        reference = known_reference(pool, before.fallback.revision, snapshot.checkpoints) or reference
    verdicts_told = [conditions.with_waits(verdict, pods) for verdict in verdicts]
    if _unheard(pods, pods.alive):
        verdicts_told = conditions.until_heard(verdicts_told, pool.status.get("conditions", []))
    status = pool_status(pool, after, pods, reference, failed, verdicts_told, now) | _known(listed, renewing)
    poll, next_poll = polling.due(pods.alive, now)
    staying = pods.without({pod.uid for pod, _ in step.delete})
    to_zero = zero.zero(snapshot, staying, live.autoscaling, live.replicas)
    apply, remove = _children(snapshot, owner, live, to_zero)
    kept, forgotten = proving.history(snapshot, owner, after, live)
    return Decisions(
        create=create,
        create_checkpoints=found.create,
        delete=tuple(_delete(pods, step.delete)),
        apply=kept + apply,
        remove=remove + forgotten,
        status=to_write(status, own_pool_status(pool.status)),
        events=(
            *events(pool, status, pods.alive, snapshot.announced, now),
            *renewal.events(asked, renewing, snapshot.announced),
            *_news(to_zero, snapshot),
        ),
        replicas=to_zero.replicas if not any(child["kind"] == SLICES.name for child in apply) else None,
        version=snapshot.version,
        poll=poll | step.ask | to_zero.ask,
        requeue_after=_soonest(now, next_poll, to_zero.next_ask, held_back, after.deadline, *_changes(pods, spec)),
    )


def _unheard(pods: Census, among: Sequence[PodView]) -> bool:
    """Whether some that serve were not asked yet."""
    return any(pods.meaning(pod).ready and heard(pod) is Heard.NOTHING for pod in among)


def _listed(snapshot: Snapshot, at: Standing, pods: Census) -> list[Manifest]:
    """`status.checkpoints`."""
    storage = at.target.spec.checkpoint.storage
    if at.target.spec.checkpoint.policy == CheckpointPolicy.DISABLED or storage is None:
        return []
    made = [recipe.revision for recipe in (at.target, at.fallback) if recipe is not None]
    return hosts.listed(snapshot.pool, storage, made, pods.alive, {view.name: view for view in snapshot.checkpoints})


def _known(listed: list[Manifest], renewing: renewal.Renewal | None) -> Manifest:
    """What the status says of checkpoints."""
    out: Manifest = {"checkpoints": listed} if listed else {}
    return out | ({"renewal": renewing.status()} if renewing is not None else {})


def _invalid(snapshot: Snapshot) -> Decisions:
    """Leave everything as it is and say what is wrong. Workers are asked all the same: checkpoints depend on it."""
    pool, now = snapshot.pool, snapshot.now
    poll, next_poll = polling.due(snapshot.pods, now)
    status = invalid_status(pool, conditions.invalid(pool, snapshot.pods), snapshot.pods, now)
    found = events(pool, status, (), snapshot.announced, now)
    return Decisions(
        status=to_write(status, own_pool_status(pool.status)),
        events=tuple(found),
        poll=poll,
        requeue_after=_soonest(now, next_poll),
    )


def _create(
    snapshot: Snapshot,
    owner: Owner,
    at: Standing,
    step: rollout.Step,
    failed: Iterable[Manifest],
    renewing: renewal.Renewal | None,
) -> tuple[tuple[Manifest, ...], float | None]:
    """Pods to make, those of the fallback first; and when one is due that a failure holds back now."""
    wanted: list[Recipe] = []
    later: list[float] = []
    for recipe, count in ((at.fallback, step.fill), (at.target, step.grow)):
        if recipe is None or not count:
            continue
        moment = backoff.not_before(failed, recipe.revision)
        if snapshot.now < moment:
            later.append(moment)
        else:
            wanted += [recipe] * min(count, AT_ONCE)
    slots = _free_slots(snapshot, min(len(wanted), AT_ONCE))
    renew = None if renewing is None else renewing.pods()
    made = (
        worker_pod(owner, r.spec, r.revision, slot, r.told, renew, snapshot.node_cache)
        for r, slot in zip(wanted, slots, strict=False)
    )
    return tuple(made), min(later, default=None)


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
    gone = [*((pod, "Failed") for pod in pods.over), *((pod, "Drained") for pod in pods.dismissed), *victims]
    for pod, reason in gone[:AT_ONCE]:
        yield DeletePod(pod.name, pod.uid, pod.resource_version, reason)


def _children(
    snapshot: Snapshot, owner: Owner, spec: VLLMWorkerPoolSpec, to_zero: zero.Zero
) -> tuple[tuple[Manifest, ...], tuple[ObjectRef, ...]]:
    """Children to apply (those whose hash differs) and to remove (those that are not wanted)."""
    all_of_them = children(owner, spec)
    if (waker := snapshot.waker) is not None and to_zero.stands is not None:
        stands = to_zero.stands
        all_of_them.append(waker_slice(owner, waker.addresses, waker.port, ipv6=waker.ipv6, stands=stands))
    wanted = {ChildKey(child["kind"], child["metadata"]["name"]): child for child in all_of_them}
    apply = []
    for key, child in wanted.items():
        if not _is_there(child, snapshot.children.get(key)):
            apply.append(child)
    unwanted = [
        ObjectRef(key.kind, key.name, view.uid)
        for key, view in snapshot.children.items()
        if key not in wanted and not view.going and not (to_zero.stands is not None and key.kind == SLICES.name)
    ]
    return tuple(apply), tuple(unwanted)


def _news(to_zero: zero.Zero, snapshot: Snapshot) -> Iterator[Event]:
    return (event for event in to_zero.events if event.key not in snapshot.announced)


def _is_there(child: Manifest, there: ChildView | None) -> bool:
    """Whether a child is as it is wanted: made of the same manifest, and nobody has changed it since."""
    if there is None or there.spec_hash != child["metadata"]["annotations"][names.ANNOTATION_SPEC_HASH]:
        return False
    if there.owned is None:
        return True
    meta = {name: child["metadata"][name] for name in ("labels", "annotations", "ownerReferences")}
    content = {name: value for name, value in child.items() if name not in ("apiVersion", "kind", "metadata")}
    return is_as_applied({"metadata": meta} | content, there.owned)


def _changes(pods: Census, spec: VLLMWorkerPoolSpec) -> Iterator[float]:
    """When pods become of another class though nothing happens."""
    for pod in pods.draining:
        if pod.deletion_time is not None:
            yield pod.deletion_time + LOST_AFTER_SECONDS
    for pod in pods.alive:
        match pods.classes[pod.uid]:
            case PodClass.UNSCHEDULED | PodClass.CREATING | PodClass.STARTING:
                yield pod.created + startup_seconds(spec)
            case PodClass.SETTLING:
                yield (pod.ready_since or pod.created) + spec.rollout.min_ready_seconds


def _soonest(now: float, *moments: float | None) -> float | None:
    known = [moment for moment in moments if moment is not None]
    return max(_SOONEST, min(known) - now) if known else None
