"""The API server: EndpointSlices in, /scale out. It may read and do nothing else."""

import asyncio
import logging
from collections.abc import Callable, Iterator
from typing import Any

from vernal_contract import decoding, names
from vernal_contract.wakes import Wake
from vernal_operator.client import ApiError, Client
from vernal_operator.kinds import POOLS
from vernal_operator.observe.cache import Cache
from vernal_operator.observe.informer import Informer
from vernal_operator.observe.views import SLICES_READER, Meta, Raw, SliceView
from vernal_operator.settings import WATCH_SILENCE_SECONDS

from vernal_waker import metrics
from vernal_waker.routes import PoolName, Slice, Table, table
from vernal_waker.wakes import Wakes

log = logging.getLogger(__name__)

_ASLEEP: tuple[dict[str, Any], ...] = ({}, {"replicas": 0})
"""What `spec` of a Scale is at no replicas: `autoscaling/v1` leaves the field out, and need not for ever."""


class Cluster:
    """`changed` is called in the event loop after EndpointSlices have changed, once for many changes."""

    def __init__(self, client: Client, namespace: str | None, changed: Callable[[], None], wakes: Wakes) -> None:
        """`namespace` None: all of them. `wakes` is told of those that are traced."""
        self._client, self._changed, self._wakes = client, changed, wakes
        self._loop = asyncio.get_running_loop()
        self._due = False
        self._cache: Cache[SliceView] = Cache(lambda old, new: self._touched())
        self._informer = Informer(
            client,
            SLICES_READER,
            self._cache,
            namespace=namespace,
            silence=WATCH_SILENCE_SECONDS,
            selector=names.LABEL_POOL,
        )

    def start(self) -> None:
        self._informer.start()

    def stop(self) -> None:
        self._informer.stop()

    @property
    def synced(self) -> bool:
        return self._informer.synced.is_set()

    async def listed(self) -> bool:
        """Wait a while for the first list; whether it is complete."""
        return await asyncio.to_thread(self._informer.synced.wait, 5.0)

    @property
    def alive(self) -> bool:
        return self._informer.is_alive()

    def table(self) -> Table:
        return table(self._slices())

    def _slices(self) -> Iterator[Slice]:
        for entry in self._cache.entries():
            view = entry.view
            if view.service:
                yield Slice(PoolName(entry.namespace, view.service), view.for_waker, view.ready, view.port)

    def _touched(self) -> None:
        """In the informer's thread."""
        if not self._due:
            self._due = True
            self._loop.call_soon_threadsafe(self._tell)

    def _tell(self) -> None:
        self._due = False  # first: what changes from here on is told of again
        self._changed()

    async def wake(self, pool: PoolName, trace: str) -> bool | None:
        """Set replicas to 1 if they are 0, in one step, so that nobody's larger number is undone. See `pools.Wake`."""
        try:
            scale = await asyncio.to_thread(self._wake, pool)
            if scale is not None and trace:
                self._wakes.add(Wake(scale.uid, int(scale.resource_version), trace))
        except ApiError as error:
            metrics.WAKES.labels("failed").inc()
            log.warning("%s cannot be woken: %s; it is tried again", pool, error)
            return None
        except Exception:
            # An answer that is not Kubernetes', a token that cannot be read: who waits depends on the next try.
            metrics.WAKES.labels("failed").inc()
            log.exception("%s cannot be woken; it is tried again", pool)
            return None
        metrics.WAKES.labels("awake" if scale is None else "woken").inc()
        if scale is not None:
            log.info("%s is woken", pool)
        return scale is not None

    def _wake(self, pool: PoolName) -> Meta | None:
        """The pool as this has left it; None if it was not asleep. Raises ApiError."""
        for asleep in _ASLEEP:
            operations: list[dict[str, Any]] = [
                {"op": "test", "path": "/spec", "value": asleep},
                {"op": "add", "path": "/spec/replicas", "value": 1},
            ]
            try:
                scale = self._client.patch_where(POOLS, pool.namespace, pool.name, operations, "scale")
            except ApiError as error:
                # A test that does not hold. What a rule or a webhook refuses has a cause.
                if error.status != 422 or error.webhook or error.causes:
                    raise
            else:
                return decoding.convert(scale, Raw).metadata
        return None
