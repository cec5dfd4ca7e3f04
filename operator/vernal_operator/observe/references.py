"""Who refers to which checkpoint, and what is due because something changed: the one place that knows.

a pool   by `status.checkpoint` and `status.checkpoints`
a pod    by its worker's word: identity and host tuple
"""

from collections.abc import Iterator
from typing import Any

from vernal_operator.build.pod import store_user
from vernal_operator.kinds import CHECKPOINTS, JOBS, NODES, PODS, POOLS, Key, Kind
from vernal_operator.observe.beliefs import Beliefs
from vernal_operator.observe.cache import Entry
from vernal_operator.observe.observer import Observer
from vernal_operator.observe.workers import Workers
from vernal_operator.plan import warm
from vernal_operator.plan.hosts import fitting
from vernal_operator.plan.model import CheckpointView, NodeCaches, Pool, WorkerUse
from vernal_operator.plan.pods import is_over


class References:
    """Reads the caches and the workers' answers anew each time; of its own it knows only which checkpoints wait until
    all workers were asked, and which until a node is seen on which a worker is. Thread-safe.
    """

    def __init__(self, observer: Observer, workers: Workers) -> None:
        self._observer, self._workers = observer, workers
        self.beliefs = Beliefs(observer, workers)
        self._unsure: set[Key] = set()
        self._nodeless: set[Key] = set()

    # -- of a checkpoint ---

    def workers(self, checkpoint: CheckpointView) -> tuple[WorkerUse, ...]:
        """Live pods of the namespace, of any pool on the same claim and path, whose workers have it."""
        spec, user = checkpoint.spec, store_user(checkpoint.namespace, checkpoint.spec.storage)
        return tuple(
            use
            for entry in self._observer.pods.in_namespace(checkpoint.namespace)
            if (use := self._use(entry)) is not None
            and (use.worker.identity, use.worker.host_tuple) == (spec.identity, spec.host_tuple)
            and self.beliefs.user(entry) in (user, "")
        )

    def live(self, namespace: str) -> frozenset[str]:
        """Uids of live pods, of any pool."""
        pods = self._observer.pods.in_namespace(namespace)
        return frozenset(entry.uid for entry in pods if not is_over(entry.view.view))

    def pools(self, checkpoint: CheckpointView, workers: tuple[WorkerUse, ...]) -> list[Pool]:
        """Pools that use it: pods that they make thaw it, or one of `workers` is theirs."""
        running = {use.pool for use in workers}
        return [
            pool
            for pool in self._pools(checkpoint.namespace)
            if pool.deletion_time is None and (_made_with(pool) == checkpoint.name or pool.name in running)
        ]

    def siblings(self, checkpoint: CheckpointView) -> tuple[CheckpointView, ...]:
        """Other checkpoints on the same claim and path, or in the same bucket."""
        views = (entry.view for entry in self._observer.checkpoints.group(checkpoint.namespace, ""))
        return tuple(
            view
            for view in views
            if view.name != checkpoint.name and view.spec.storage.place == checkpoint.spec.storage.place
        )

    def fitting(self, checkpoint: CheckpointView) -> tuple[str, ...]:
        """Nodes on which a pod of some pool could thaw it, as far as pools know."""
        return fitting(self._pools(checkpoint.namespace), checkpoint.name)

    def caches(self, checkpoint: Key) -> NodeCaches | None:
        """What may be known of nodes' caches; None where nodes have none. A checkpoint is due again once a node is seen
        that its workers told of earlier.
        """
        if (cache := self._observer.node_cache) is None:
            return None
        uses = map(self._use, self._observer.pods.in_namespace(checkpoint.namespace))
        told = tuple(use for use in uses if use is not None and use.worker.node_cache is not None)
        known = self._observer.checkpoints.group(checkpoint.namespace, "")
        others = tuple(entry.view.status for entry in known if entry.name != checkpoint.name)
        if (seen := self._observer.nodes) is None:
            return NodeCaches(cache=cache, machines=None, told=told, others=others)
        machines = tuple(entry.view for entry in seen.entries())
        all_seen = {use.node for use in told} <= {node.name for node in machines}
        (self._nodeless.discard if all_seen else self._nodeless.add)(checkpoint)
        return NodeCaches(cache=cache, machines=machines, told=told, others=others)

    def all_asked(self, checkpoint: Key) -> bool:
        """Whether every running worker of the namespace was asked, so that none refers to it unheard. If not, it is due
        again with the next answers.
        """
        known = all(self._was_asked(pool) for pool in self._pools(checkpoint.namespace))
        (self._unsure.discard if known else self._unsure.add)(checkpoint)
        return known

    def forget(self, checkpoint: Key) -> None:
        self._unsure.discard(checkpoint)
        self._nodeless.discard(checkpoint)

    # -- of a pool ---

    def of(self, pool: Key) -> list[Key]:
        """Checkpoints that a pool, or one of its workers, refers to."""
        uses = map(self._use, self._observer.pods.group(pool.namespace, pool.name))
        identities = {use.worker.identity for use in uses if use is not None}
        found = self._observer.pools.get(pool.namespace, pool.name)
        named = _named(found.view) if found else frozenset()
        return [
            Key(CHECKPOINTS, entry.namespace, entry.name)
            for entry in self._observer.checkpoints.group(pool.namespace, "")
            if entry.name in named or entry.view.spec.identity in identities
        ]

    # -- what is due ---

    def changed(self, kind: Kind, old: Entry[Any] | None, new: Entry[Any] | None) -> Iterator[Key]:
        """Pools and checkpoints to look at because an object came, went or changed."""
        entry = new or old
        assert entry is not None
        namespace = entry.namespace
        if kind is NODES:
            if old is None or new is None or old.view != new.view:
                yield from self._node(entry.name, gone=new is None)
        elif kind is CHECKPOINTS:
            yield Key(CHECKPOINTS, namespace, entry.name)
            yield from self._all(POOLS, namespace)
            yield from self._counted_with(entry)
            yield from self._had_room_taken(entry)
        elif kind is JOBS:
            yield Key(CHECKPOINTS, namespace, entry.group)
        else:
            for name in {e.name if kind is POOLS else e.group for e in (old, new) if e is not None}:
                yield Key(POOLS, namespace, name)
            if new is None and kind in (POOLS, PODS):  # it may have been the last that used any
                yield from self._all(CHECKPOINTS, namespace)
            elif kind is POOLS:
                left = _named(old.view) if old is not None else frozenset()  # they may be unused now
                due = {Key(CHECKPOINTS, namespace, name) for name in left}
                yield from due.union(self.of(Key(POOLS, namespace, entry.name)))

    def answered(self, pool: Key) -> Iterator[Key]:
        """Pools and checkpoints to look at because workers of a pool have answered."""
        unsure = {key for key in list(self._unsure) if key.namespace == pool.namespace}
        yield pool
        yield from unsure.union(self.of(pool), self._taken_off(pool))

    # -- underneath ---

    def _use(self, entry: Entry[Any]) -> WorkerUse | None:
        view = entry.view.view
        answer = self.beliefs.answer(entry)
        if is_over(view) or answer is None or answer.worker is None:
            return None
        return WorkerUse(
            pool=entry.group,
            pod=entry.name,
            pod_uid=entry.uid,
            restarts=view.restarts,
            container_started=view.container_started,
            worker=answer.worker,
            answered_at=answer.answered_at or answer.polled_at,
            node=view.node,
        )

    def _node(self, name: str, *, gone: bool) -> Iterator[Key]:
        """Checkpoints to look at because a node is there or has changed, or is not any more."""
        if not gone:
            fetched = self._observer.node_cache is not None and self._observer.node_cache.fetched
            every = (Key(CHECKPOINTS, entry.namespace, entry.name) for entry in self._observer.checkpoints.entries())
            yield from every if fetched else list(self._nodeless)
            return
        for entry in self._observer.checkpoints.entries():
            if any(node.get("name") == name for node in entry.view.status.get("nodes") or ()):
                yield Key(CHECKPOINTS, entry.namespace, entry.name)

    def _taken_off(self, pool: Key) -> set[Key]:
        """Checkpoints whose files may have gone for those of a pool's workers."""
        if self._observer.node_cache is None:
            return set()
        uses = [use for entry in self._observer.pods.group(pool.namespace, pool.name) if (use := self._use(entry))]
        return {
            Key(CHECKPOINTS, entry.namespace, entry.name)
            for entry in self._observer.checkpoints.group(pool.namespace, "")
            if any(warm.takes_off(use, entry.view.status) for use in uses)
        }

    def _all(self, kind: Kind, namespace: str) -> Iterator[Key]:
        for entry in self._observer.cache(kind).group(namespace, ""):
            yield Key(kind, namespace, entry.name)

    def _counted_with(self, changed: Entry[CheckpointView]) -> Iterator[Key]:
        """Unused checkpoints that one more unused one may be too many for (`maxUnused`)."""
        if "unusedSince" not in changed.view.status:
            return
        for entry in self.siblings(changed.view):
            if "maxUnused" in entry.status.get("retention", {}):
                yield Key(CHECKPOINTS, entry.namespace, entry.name)

    def _had_room_taken(self, changed: Entry[CheckpointView]) -> Iterator[Key]:
        """Checkpoints whose files may have gone for those that were fetched."""
        if self._observer.node_cache is not None:
            for entry in self._observer.checkpoints.group(changed.namespace, ""):
                if entry.name != changed.name and warm.other_takes_off(changed.view.status, entry.view.status):
                    yield Key(CHECKPOINTS, entry.namespace, entry.name)

    def _pools(self, namespace: str) -> list[Pool]:
        return [entry.view for entry in self._observer.pools.group(namespace, "")]

    def _was_asked(self, pool: Pool) -> bool:
        return pool.deletion_time is not None or all(
            self._workers.answer(entry.uid, entry.view.view.restarts) is not None
            for entry in self._observer.pods.group(pool.namespace, pool.name)
            if entry.owner == pool.uid and entry.view.view.running and entry.view.view.deletion_time is None
        )


def _made_with(pool: Pool) -> str | None:
    """The checkpoint that new pods of a pool thaw."""
    reference = pool.status.get("checkpoint")
    return reference.get("name") if isinstance(reference, dict) else None


def _named(pool: Pool) -> frozenset[str]:
    names = (_made_with(pool), *(entry.get("name") for entry in pool.status.get("checkpoints", [])))
    return frozenset(name for name in names if name is not None)
