"""Builds what plans read from the caches. No call to the API server, but for checkpoints that are being
deleted.
"""

from dataclasses import replace

from vernal_operator.api.pool import RetentionPolicy
from vernal_operator.client import ApiError, Client
from vernal_operator.kinds import CHECKPOINTS, CHILDREN, CLAIMS, NAMESPACES, Key
from vernal_operator.observe.cache import Entry
from vernal_operator.observe.observer import Observer
from vernal_operator.observe.views import SeenPod
from vernal_operator.observe.workers import Target, Workers
from vernal_operator.plan.model import (
    CheckpointSnapshot,
    CheckpointView,
    ChildKey,
    PodView,
    Pool,
    PoolUse,
    Snapshot,
    WorkerUse,
)

_OVER = ("Succeeded", "Failed")


def pool_snapshot(
    observer: Observer, workers: Workers, key: Key, now: float, announced: frozenset[str]
) -> Snapshot | None:
    """The snapshot of a pool; None if there is no such pool."""
    found = observer.pools.get(key.namespace, key.name)
    if found is None:
        return None
    labelled = observer.pods.group(key.namespace, key.name)
    children = {
        ChildKey(kind.name, entry.name): entry.view
        for kind in CHILDREN
        for entry in observer.children(kind).group(key.namespace, key.name)
        if entry.owner == found.uid
    }
    return Snapshot(
        now=now,
        pool=found.view,
        pods=tuple(_heard(entry, workers) for entry in labelled if entry.owner == found.uid),
        taken_slots=frozenset(
            entry.view.view.slot for entry in labelled if entry.owner != found.uid and entry.view.view.slot >= 0
        ),
        checkpoints=tuple(entry.view for entry in observer.checkpoints.group(key.namespace, "")),
        children=children,
        revisions=tuple(
            entry.view for entry in observer.revisions.group(key.namespace, key.name) if entry.owner == found.uid
        ),
        announced=announced,
        in_endpoints=_in_endpoints(observer, key),
        waker=observer.waker(key) if goes_to_zero(found.view) else None,
    )


def goes_to_zero(pool: Pool) -> bool:
    """Whether the waker may have to do with it."""
    wish = pool.spec.autoscaling if pool.spec is not None else None
    return wish is not None and wish.min_replicas == 0


def _in_endpoints(observer: Observer, key: Key) -> frozenset[str]:
    """Pods that the Service leads to."""
    slices = [entry.view for entry in observer.slices.group(key.namespace, key.name)]
    led_to = {a for view in slices if view.service == key.name and not view.for_waker for a in view.ready}
    return frozenset(
        entry.name for entry in observer.pods.group(key.namespace, key.name) if entry.view.address in led_to
    )


def targets(observer: Observer, key: Key, pods: frozenset[str]) -> list[Target]:
    """Where to ask the named pods of a pool for their state. Who has no address yet is left out."""
    return [
        Target(entry.uid, entry.view.view.restarts, entry.name, entry.view.address)
        for entry in observer.pods.group(key.namespace, key.name)
        if entry.name in pods and entry.view.address
    ]


def checkpoint_snapshot(
    observer: Observer, workers: Workers, client: Client, key: Key, now: float, announced: frozenset[str]
) -> CheckpointSnapshot | None:
    """The snapshot of a checkpoint; None if there is no such checkpoint.

    Raises:
        ApiError: it is being deleted, and its claim or its namespace could not be looked up.
    """
    found = observer.checkpoints.get(key.namespace, key.name)
    if found is None:
        return None
    checkpoint = found.view
    using = _worker_uses(observer, workers, checkpoint)
    pools = [entry.view for entry in observer.pools.group(key.namespace, "") if _uses(entry.view, checkpoint, using)]
    snapshot = CheckpointSnapshot(
        now=now,
        checkpoint=checkpoint,
        users=tuple(map(_pool_use, pools)),
        workers=using,
        workers_known=all(
            _all_asked(observer, workers, entry.view) for entry in observer.pools.group(key.namespace, "")
        ),
        job=next(
            (entry.view for entry in observer.jobs.group(key.namespace, key.name) if entry.owner == found.uid), None
        ),
        announced=announced,
    )
    if checkpoint.deletion_time is None or snapshot.users or not snapshot.workers_known:
        return snapshot
    return replace(
        snapshot,
        claim_exists=_claim_exists(client, checkpoint),
        namespace_terminating=_namespace_terminating(client, key.namespace),
    )


def checkpoints_of(observer: Observer, workers: Workers, key: Key) -> list[Key]:
    """Keys of the checkpoints that a pool, or one of its workers, refers to."""
    identities = {
        answer.worker.identity
        for entry in observer.pods.group(key.namespace, key.name)
        if (answer := workers.answer(entry.uid, entry.view.view.restarts)) and answer.worker
    }
    pool = observer.pools.get(key.namespace, key.name)
    named = _checkpoint_name(pool.view) if pool else None
    return [
        Key(CHECKPOINTS, entry.namespace, entry.name)
        for entry in observer.checkpoints.group(key.namespace, "")
        if entry.name == named or entry.view.spec.identity in identities
    ]


# --- pieces ---


def _heard(entry: Entry[SeenPod], workers: Workers) -> PodView:
    view = entry.view.view
    answer = workers.answer(entry.uid, view.restarts)
    if answer is None:
        return view
    return replace(view, worker=answer.worker, answered_at=answer.answered_at, polled_at=answer.polled_at)


def _worker_uses(observer: Observer, workers: Workers, checkpoint: CheckpointView) -> tuple[WorkerUse, ...]:
    uses = []
    for entry in observer.pods.in_namespace(checkpoint.namespace):
        view = entry.view.view
        answer = workers.answer(entry.uid, view.restarts)
        if view.phase in _OVER or answer is None or answer.worker is None:
            continue
        spec = checkpoint.spec
        if (answer.worker.identity, answer.worker.host_tuple) == (spec.identity, spec.host_tuple):
            uses.append(
                WorkerUse(
                    pool=entry.group,
                    pod=entry.name,
                    pod_uid=entry.uid,
                    restarts=view.restarts,
                    worker=answer.worker,
                    answered_at=answer.answered_at or answer.polled_at,
                )
            )
    return tuple(uses)


def _checkpoint_name(pool: Pool) -> str | None:
    reference = pool.status.get("checkpoint")
    return reference.get("name") if isinstance(reference, dict) else None


def _uses(pool: Pool, checkpoint: CheckpointView, workers: tuple[WorkerUse, ...]) -> bool:
    if pool.deletion_time is not None:
        return False
    return _checkpoint_name(pool) == checkpoint.name or any(use.pool == pool.name for use in workers)


def _pool_use(pool: Pool) -> PoolUse:
    if pool.spec is None:  # nothing is known of its wishes, so nothing of its is thrown away
        return PoolUse(name=pool.name, restore_attempts=3, retain=True, unused_seconds=0)
    wish = pool.spec.checkpoint
    return PoolUse(
        name=pool.name,
        restore_attempts=wish.restore_attempts,
        retain=wish.retention.policy is RetentionPolicy.RETAIN,
        unused_seconds=wish.retention.unused_seconds,
    )


def _all_asked(observer: Observer, workers: Workers, pool: Pool) -> bool:
    return pool.deletion_time is not None or all(
        workers.answer(entry.uid, entry.view.view.restarts) is not None
        for entry in observer.pods.group(pool.namespace, pool.name)
        if entry.owner == pool.uid and entry.view.view.running and entry.view.view.deletion_time is None
    )


def _claim_exists(client: Client, checkpoint: CheckpointView) -> bool:
    try:
        client.get(CLAIMS, checkpoint.namespace, checkpoint.spec.storage.claim_name)
    except ApiError as error:
        if error.not_found:
            return False
        raise
    return True


def _namespace_terminating(client: Client, namespace: str) -> bool:
    try:
        found = client.get(NAMESPACES, None, namespace)
    except ApiError as error:
        if error.status == 403:  # an operator of one namespace may not read it, and goes with it
            return False
        raise
    return bool(found["metadata"].get("deletionTimestamp"))
