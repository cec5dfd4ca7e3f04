"""Builds what plans read from the caches. No call to the API server, but for checkpoints that are being deleted, or due
to be, and for the last words of Jobs.
"""

from collections.abc import Sequence
from dataclasses import replace

from vernal_operator.api.storage import RetentionPolicy
from vernal_operator.build.waker import slice_name
from vernal_operator.client import ApiError, Client
from vernal_operator.kinds import CHILDREN, CLAIMS, NAMESPACES, NODES, PODS, SLICES, Key
from vernal_operator.observe import views
from vernal_operator.observe.beliefs import Beliefs
from vernal_operator.observe.cache import Entry
from vernal_operator.observe.observer import Observer
from vernal_operator.observe.references import References
from vernal_operator.observe.views import SeenPod
from vernal_operator.observe.workers import Target
from vernal_operator.plan import retention
from vernal_operator.plan.hosts import elsewhere, makes
from vernal_operator.plan.model import (
    CheckpointSnapshot,
    CheckpointView,
    ChildKey,
    JobView,
    NodeCaches,
    PodView,
    Pool,
    PoolUse,
    Snapshot,
)


def pool_snapshot(
    observer: Observer, beliefs: Beliefs, key: Key, now: float, announced: frozenset[str]
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
        version=found.version,
        pods=tuple(_heard(entry, beliefs) for entry in labelled if entry.owner == found.uid),
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
        waker=observer.waker(key)
        if goes_to_zero(found.view) or ChildKey(SLICES.name, slice_name(key.name)) in children
        else None,
        node_cache=observer.node_cache,
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
    observer: Observer, references: References, client: Client, key: Key, now: float, announced: frozenset[str]
) -> CheckpointSnapshot | None:
    """The snapshot of a checkpoint; None if there is no such checkpoint.

    Raises:
        ApiError: it is being deleted, or due to be, and its claim, its namespace or a node could not be looked up.
    """
    found = observer.checkpoints.get(key.namespace, key.name)
    if found is None:
        references.forget(key)
        return None
    checkpoint = found.view
    using = references.workers(checkpoint)
    jobs = [entry.view for entry in observer.jobs.group(key.namespace, key.name) if entry.owner == found.uid]
    snapshot = CheckpointSnapshot(
        now=now,
        checkpoint=checkpoint,
        users=tuple(_pool_use(pool, checkpoint) for pool in references.pools(checkpoint, using)),
        workers=using,
        pods=references.live(key.namespace),
        workers_known=references.all_asked(key),
        siblings=references.siblings(checkpoint),
        fitting=references.fitting(checkpoint),
        job=next((job for job in jobs if not job.node), None),
        caches=_with_fetches(client, key, references.caches(key), [job for job in jobs if job.node]),
        announced=announced,
    )
    if snapshot.users or not snapshot.workers_known:
        return snapshot
    if retention.is_due(checkpoint.status, snapshot):
        return replace(snapshot, gone=frozenset(node for node in snapshot.fitting if not _node_exists(client, node)))
    if checkpoint.deletion_time is None:
        return snapshot
    if snapshot.job is not None and snapshot.job.succeeded:
        said = _last_words(client, key.namespace, snapshot.job)
        snapshot = replace(snapshot, job=replace(snapshot.job, said=said))
    return replace(
        snapshot,
        claim_exists=_claim_exists(client, checkpoint),
        namespace_terminating=_namespace_terminating(client, key.namespace),
    )


# --- pieces ---


def _heard(entry: Entry[SeenPod], beliefs: Beliefs) -> PodView:
    view, answer = entry.view.view, beliefs.answer(entry)
    if answer is None:
        return view
    return replace(
        view, worker=answer.worker, answered_at=answer.answered_at, polled_at=answer.polled_at, doubt=answer.doubt
    )


def _with_fetches(client: Client, key: Key, caches: NodeCaches | None, fetches: Sequence[JobView]) -> NodeCaches | None:
    """With what pods of Jobs have said that have ended: they are few, and removed when that was heard."""
    if caches is None or not fetches:
        return caches
    said = {job.uid: _last_words(client, key.namespace, job) for job in fetches if job.ended is not None}
    return replace(caches, fetches=tuple(replace(job, said=said.get(job.uid, "")) for job in fetches))


def _pool_use(pool: Pool, checkpoint: CheckpointView) -> PoolUse:
    if pool.spec is None:  # nothing is known of its wishes, so nothing of its is thrown away
        return PoolUse(name=pool.name, restore_attempts=3, retain=True, unused_seconds=0)
    wish = pool.spec.checkpoint
    return PoolUse(
        name=pool.name,
        restore_attempts=wish.restore_attempts,
        retain=wish.retention.policy is RetentionPolicy.RETAIN,
        unused_seconds=wish.retention.unused_seconds,
        max_unused=wish.retention.max_unused,
        spec=pool.spec,
        makes=makes(pool, checkpoint.name),
        elsewhere=elsewhere(pool, checkpoint.name, checkpoint.spec.identity),
    )


def _last_words(client: Client, namespace: str, job: JobView) -> str:
    """The termination message of the pod of a Job, if it is still there."""
    query = {"labelSelector": f"batch.kubernetes.io/job-name={job.name}"}
    said = views.termination_messages(client.list_page(PODS, namespace, query))
    return next((message for message in said if message), "")


def _claim_exists(client: Client, checkpoint: CheckpointView) -> bool:
    claim = checkpoint.spec.storage.claim_name
    if claim is None:  # of a bucket nobody here can say that it is gone
        return True
    try:
        client.get(CLAIMS, checkpoint.namespace, claim)
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


def _node_exists(client: Client, name: str) -> bool:
    try:
        client.get(NODES, None, name)
    except ApiError as error:
        if error.status == 403:  # an operator of one namespace may not read it: what is not known is kept
            return True
        if not error.not_found:
            raise
        return False
    return True
