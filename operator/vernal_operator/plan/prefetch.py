"""Which nodes fetch a checkpoint into their cache before a pod of it is there: a Job for each (`build.prefetch`).

    who      nodes on which pods could run that pools make of it (`plan.placing`), which are not known to have it, and
             on which no worker of it may fill the cache yet
    how many as many as are to have it by the administrator's word, those that have it counted; so many at a time
    when     it is published; a pool asks for more pods; such a node comes

Nothing is tried for ever. What a Job has come to is a word about its node (`plan.warm`), and a node of which the last
word is a no is not asked again, but

* when a pool that uses it asks for more pods, or there is a new generation (`status.prefetch.nodes` is then empty);
* after a while, unless the cache is too small for it, or others' files went into its place: that would only go round.

A Job is removed once its word is in the status. Should it vanish before, another is made, and finds the files there.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from vernal_contract.state import CacheFill

from vernal_operator.build.meta import checkpoint_owner, pool_owner
from vernal_operator.build.pod import worker_pod
from vernal_operator.build.prefetch import fetch_job
from vernal_operator.plan import refused as refusals
from vernal_operator.plan import warm
from vernal_operator.plan.model import CheckpointSnapshot, Event, JobView, Manifest, ObjectRef
from vernal_operator.plan.own import own_checkpoint_status
from vernal_operator.plan.placing import fits, needs, same_machine
from vernal_operator.plan.times import epoch

AGAIN_SECONDS = 1800.0
"""Between two tries of a node that failed."""
PAUSE_SECONDS = 300.0
"""As much when a pool asked for more pods meanwhile, which it may do often."""
MOST_NODES = 200
"""That the status remembers as tried."""
_NO_USE = (CacheFill.FULL, warm.EVICTED)
_STEP = {
    CacheFill.FULL: "raise nodeCache.size of the chart, or free space on the disk of nodeCache.directory there",
    CacheFill.FAILED: "check the node's cache directory and the storage; it is tried again in half an hour",
}


@dataclass(frozen=True, slots=True)
class Prefetch:
    """What is to be done. `status`: the field `prefetch`; None without one."""

    create: tuple[Manifest, ...] = ()
    remove: tuple[ObjectRef, ...] = ()
    status: Mapping[str, Any] | None = None
    events: tuple[Event, ...] = ()
    requeue_after: float | None = None


def prefetch(snapshot: CheckpointSnapshot, status: Mapping[str, Any]) -> Prefetch:
    """`status`: the checkpoint's as it is to be written, with what Jobs have come to."""
    caches, old = snapshot.caches, own_checkpoint_status(snapshot.checkpoint.status)
    if caches is None or not caches.cache.fetched:
        return Prefetch()
    before = old.get("prefetch") or {}
    if not snapshot.workers_known:  # who uses it may become more, and no pool has asked for any
        return Prefetch(status=before or None)
    generation, cache, now = status.get("generation"), caches.cache, snapshot.now
    targets = _targets(snapshot) if _is_ready(status) else {}
    entries = {entry["name"]: entry for entry in status.get("nodes") or ()}
    replicas = sum(pool.spec.replicas for pool in snapshot.users if pool.makes and pool.spec is not None)
    anew = generation != old.get("generation") or replicas > before.get("replicas", 0)
    there = {node.name for node in caches.machines or ()}
    tried = [] if anew else [node for node in before.get("nodes") or () if node in there]

    over = _over(snapshot, generation, there if targets else set())
    under_way = [job for job in caches.fetches if job not in over]
    filling = (use for use in caches.told if use.worker.node_cache is not None and use.worker.node_cache.fill is None)
    own = {use.pod_uid for use in snapshot.workers}
    busy = {job.node for job in caches.fetches} | {use.node for use in filling if use.pod_uid in own}
    open_for: list[str] = []
    later: list[float] = []
    for node in targets:
        moment = _when(entries.get(node), node in tried)
        if node in busy or moment is None:
            continue
        if moment <= now:
            open_for.append(node)
        else:
            later.append(moment - now)
    running = sum(job.ended is None for job in under_way)
    have = sum(bool(entries.get(node, {}).get("cached")) for node in targets)
    free = max(0, min(cache.fetched - have - running, cache.at_once - running))
    chosen = open_for[:free]
    room = cache.fetched > have + running
    owner = checkpoint_owner(snapshot.checkpoint.name, snapshot.checkpoint.namespace, snapshot.checkpoint.uid)
    return Prefetch(
        create=tuple(
            fetch_job(owner, snapshot.checkpoint.spec, str(generation), node, cache, targets[node]) for node in chosen
        ),
        remove=tuple(ObjectRef("Job", job.name, job.uid) for job in over if not job.going),
        status={"replicas": replicas, "nodes": sorted({*tried, *chosen})[:MOST_NODES]},
        events=tuple(event for event in _events(snapshot) if event.key not in snapshot.announced),
        requeue_after=min(later, default=None) if room else None,
    )


def end(snapshot: CheckpointSnapshot) -> tuple[ObjectRef, ...]:
    """Of a checkpoint that goes: its Jobs go first."""
    fetches = snapshot.caches.fetches if snapshot.caches is not None else ()
    return tuple(ObjectRef("Job", job.name, job.uid) for job in fetches if not job.going)


def _is_ready(status: Mapping[str, Any]) -> bool:
    return any(c["type"] == "Ready" and c["status"] == "True" for c in status.get("conditions") or ())


def _targets(snapshot: CheckpointSnapshot) -> dict[str, Sequence[Any]]:
    """Nodes on which a pod of it could be, with that pod's tolerations."""
    caches, view = snapshot.caches, snapshot.checkpoint
    if caches is None or view.deletion_time is not None:
        return {}
    found: dict[str, Sequence[Any]] = {}
    for pool in snapshot.users:
        if not pool.makes or pool.spec is None:
            continue
        owner = pool_owner(pool.name, view.namespace, "")
        pod = worker_pod(owner, pool.spec, "", 0)["spec"]
        if (wanted := needs(pod)) is None:
            continue
        for node in caches.machines or ():
            if node.name not in pool.elsewhere and fits(wanted, node) and same_machine(view.spec.host, node):
                found.setdefault(node.name, pod.get("tolerations") or ())
    return dict(sorted(found.items()))


def _when(entry: Mapping[str, Any] | None, tried: bool) -> float | None:
    """From when on a node may fetch, by the last word about it; None: not by itself."""
    if entry is None:
        return 0.0
    if entry["cached"]:
        return None
    if not tried:
        return epoch(entry["time"]) + PAUSE_SECONDS
    return None if entry["reason"] in _NO_USE else epoch(entry["time"]) + AGAIN_SECONDS


def _over(snapshot: CheckpointSnapshot, generation: str | None, nodes: set[str]) -> list[JobView]:
    """Jobs that are of no use any more: their word is written down, or nobody wants it, or not on these `nodes`."""
    assert snapshot.caches is not None
    written = {e["name"]: epoch(e["time"]) for e in snapshot.checkpoint.status.get("nodes") or ()}
    over = []
    for job in snapshot.caches.fetches:
        word = warm.of_job(job)
        known = word is not None and epoch(word.time) <= written.get(word.node, float("-inf"))
        lost = job.generation != generation or job.node not in nodes
        if known or lost:
            over.append(job)
    return over


def _events(snapshot: CheckpointSnapshot) -> Iterator[Event]:
    assert snapshot.caches is not None
    for job in snapshot.caches.fetches:
        word = warm.of_job(job)
        if word is not None and not word.cached:
            said = warm.said_by(job)
            why = (said.message if said is not None else "") or job.message or "it ended without a word"
            step = _STEP.get(CacheFill(word.reason), "")
            text = f"node {job.node} did not fetch generation {job.generation}: {word.reason}: {why}; {step}"
            yield Event("Warning", "PrefetchFailed", text, f"prefetch/{job.uid}")
    creating = tuple(r for r in snapshot.refused if (r.verb, r.kind) == ("create", "Job"))
    if creating:
        text = f"a Job that fetches it to a node cannot be made: {refusals.sentence(creating)}"
        yield Event("Warning", creating[0].reason, text, f"prefetch/{creating[0].reason}")
