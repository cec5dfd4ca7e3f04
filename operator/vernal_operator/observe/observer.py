"""Everything that is watched: one informer a kind, and the caches that they fill."""

import logging
from collections.abc import Callable
from functools import partial
from typing import Any, cast

from vernal_contract import names

from vernal_operator.client import ApiError, Client
from vernal_operator.kinds import CHECKPOINTS, CHILDREN, JOBS, NODES, PODS, POOLS, REVISIONS, SLICES, Key, Kind
from vernal_operator.observe import views
from vernal_operator.observe.cache import Cache, Entry
from vernal_operator.observe.informer import Informer
from vernal_operator.observe.views import Reader, SeenPod, SliceView
from vernal_operator.observe.wakers import Wakers
from vernal_operator.plan.model import CheckpointView, ChildView, JobView, NodeView, Pool, RevisionView, Waker
from vernal_operator.settings import Settings

log = logging.getLogger(__name__)

OnChange = Callable[[Kind, Entry[Any] | None, Entry[Any] | None], None]

_LABELLED = (PODS, *CHILDREN, REVISIONS)
"""Kinds of which only labelled objects are watched. Others must not be cached: nothing would tell of their end."""

_SELECTORS = dict.fromkeys(_LABELLED, names.LABEL_POOL) | {JOBS: f"{names.LABEL_COMPONENT}={names.COMPONENT_JANITOR}"}
_FETCHES_TOO = {JOBS: f"{names.LABEL_COMPONENT} in ({names.COMPONENT_JANITOR},{names.COMPONENT_PREFETCH})"}


class Observer:
    """The caches of all kinds. `on_change` is called after every change, in some informer's or writer's
    thread.
    """

    def __init__(self, client: Client, settings: Settings, on_change: OnChange, wakers: Wakers | None = None) -> None:
        self._client = client
        readers = views.READERS
        if settings.node_cache is not None and settings.namespace is None:  # of one namespace it may not read nodes
            readers += (views.NODES_READER,)
        self._readers: dict[Kind, Reader[Any]] = {reader.kind: reader for reader in readers}
        fetches = settings.node_cache is not None and settings.node_cache.fetched
        selectors = _SELECTORS | (_FETCHES_TOO if fetches else {})
        self._caches: dict[Kind, Cache[Any]] = {}
        self._informers: list[Informer[Any]] = []
        for kind, reader in self._readers.items():
            self._caches[kind] = Cache(partial(on_change, kind))
            self._informers.append(
                Informer(
                    client,
                    reader,
                    self._caches[kind],
                    namespace=settings.namespace,
                    silence=settings.watch_silence,
                    selector=selectors.get(kind, ""),
                )
            )
        self.node_cache = settings.node_cache
        self._wakers = wakers
        if wakers is not None:
            self._informers.append(wakers.informer)

    def start(self) -> None:
        for informer in self._informers:
            informer.start()

    def stop(self) -> None:
        """Ask all informers to end; they are daemons and need not be waited for."""
        for informer in self._informers:
            informer.stop()

    @property
    def unsynced(self) -> list[str]:
        """Kinds whose first list is not complete yet. Until none is left, a plan would see too little."""
        return [informer.name for informer in self._informers if not informer.synced.is_set()]

    @property
    def dead(self) -> list[str]:
        """Informers whose thread ended, which must not happen."""
        return [informer.name for informer in self._informers if not informer.is_alive()]

    # -- caches ---

    @property
    def pools(self) -> Cache[Pool]:
        return cast("Cache[Pool]", self._caches[POOLS])

    @property
    def checkpoints(self) -> Cache[CheckpointView]:
        return cast("Cache[CheckpointView]", self._caches[CHECKPOINTS])

    @property
    def pods(self) -> Cache[SeenPod]:
        return cast("Cache[SeenPod]", self._caches[PODS])

    @property
    def jobs(self) -> Cache[JobView]:
        return cast("Cache[JobView]", self._caches[JOBS])

    @property
    def revisions(self) -> Cache[RevisionView]:
        return cast("Cache[RevisionView]", self._caches[REVISIONS])

    @property
    def nodes(self) -> Cache[NodeView] | None:
        """None where they are not watched."""
        return self._caches.get(NODES)

    def children(self, kind: Kind) -> Cache[ChildView]:
        return cast("Cache[ChildView]", self._caches[kind])

    @property
    def slices(self) -> Cache[SliceView]:
        return cast("Cache[SliceView]", self._caches[SLICES])

    def waker(self, key: Key) -> Waker | None:
        """Who holds the requests of a pool without workers; None if this operator knows of nobody."""
        return self._wakers.of(key, self.slices) if self._wakers is not None else None

    def forget(self, key: Key) -> None:
        """The pool is gone."""
        if self._wakers is not None:
            self._wakers.forget(key)

    def cache(self, kind: Kind) -> Cache[Any]:
        return self._caches[kind]

    # -- own writes ---

    def wrote(self, kind: Kind, obj: dict[str, Any]) -> Entry[Any] | None:
        """Take in the object that a write, or a read by name, returned, if it is of those that are watched."""
        entry = self._readers[kind].convert(obj)
        if entry is not None and (entry.group or kind not in _LABELLED):
            self._caches[kind].wrote(entry)
        return entry

    def refresh(self, kind: Kind, namespace: str, name: str) -> Entry[Any] | None:
        """Read one object now, past the cache. None if there is none. Raises ApiError."""
        try:
            return self.wrote(kind, self._client.get(kind, namespace, name))
        except ApiError as error:
            if not error.not_found:
                raise
        self._caches[kind].absent(namespace, name)
        return None
