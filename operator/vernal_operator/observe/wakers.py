"""Where the waker's pods are, and by which port each of them knows a pool."""

import hashlib
import logging
import threading
import time
from collections.abc import Callable
from typing import Any

from vernal_contract import names

from vernal_operator.client import Client
from vernal_operator.kinds import Key
from vernal_operator.observe.cache import Cache, Entry
from vernal_operator.observe.informer import Informer
from vernal_operator.observe.views import SLICES_READER, SliceView
from vernal_operator.plan.model import Waker

log = logging.getLogger(__name__)

REST_SECONDS = 900.0
"""How long nobody gets the port of a pool that is gone."""
FIRST_PORT, PORTS = 20000, 10000
"""Below those that a kernel takes for connections out (ip_local_port_range)."""


class Wakers:
    """The ready pods of the waker's Service. Thread-safe."""

    def __init__(
        self, client: Client, namespace: str, service: str, on_change: Callable[[], None], *, silence: float
    ) -> None:
        """`on_change` is called when pods came or went; `silence`: see `Settings.watch_silence`."""
        self._cache: Cache[SliceView] = Cache(lambda old, new: on_change())
        selector = f"{names.LABEL_SERVICE}={service}"
        self.informer: Informer[SliceView] = Informer(
            client, SLICES_READER, self._cache, namespace=namespace, silence=silence, selector=selector
        )
        self._namespace = namespace
        self._ports = Ports()

    def of(self, key: Key, slices: Cache[SliceView]) -> Waker | None:
        """As a pool's plan is told. `slices`: of all pools, which hold the ports that were given before."""
        try:
            port = self._ports.of(key, slices)
        except RuntimeError as error:
            log.error("%s: %s", key, error)
            return None
        views = [entry.view for entry in self._cache.in_namespace(self._namespace)]
        # One family: the one that there are addresses of, else the one that there will be.
        known = [view for view in views if view.ready] or views
        ipv6 = bool(known) and all(view.address_type == "IPv6" for view in known)
        family = [address for view in views for address in view.ready if (":" in address) == ipv6]
        return Waker(tuple(sorted(family)), port, ipv6)

    def probes(self) -> list[tuple[str, int]]:
        """Addresses and the port of their own, which is the Service's."""
        views = [entry.view for entry in self._cache.in_namespace(self._namespace)]
        return [(address, view.port) for view in views if view.port is not None for address in view.ready]

    def forget(self, key: Key) -> None:
        """The pool is gone."""
        self._ports.forget(key)


class Ports:
    """One port a pool, and one pool a port. A pool keeps its port as long as its slice is there, over restarts too."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._given: dict[Key, int] = {}
        self._rests: dict[int, tuple[Key, float]] = {}  # ports of pools that are gone, and until when

    def of(self, key: Key, slices: Cache[Any]) -> int:
        """Raises: RuntimeError: all are taken."""
        with self._lock:
            if key not in self._given:
                self._given[key] = self._new(key, slices)
            return self._given[key]

    def _new(self, key: Key, slices: Cache[Any]) -> int:
        now = self._clock()
        self._rests = {port: (of, until) for port, (of, until) in self._rests.items() if until > now and of != key}
        written = {(e.namespace, e.group): e.view.port for e in _of_wakers(slices)}
        mine: int | None = written.pop((key.namespace, key.name), None)
        if mine is not None and mine not in self._given.values():
            return mine
        return _free(key, {*self._given.values(), *written.values(), *self._rests})

    def forget(self, key: Key) -> None:
        """The port is nobody else's for a while: nodes that have not heard yet still lead its clients there."""
        with self._lock:
            if (port := self._given.pop(key, None)) is not None:
                self._rests[port] = key, self._clock() + REST_SECONDS


def _of_wakers(slices: Cache[Any]) -> list[Entry[Any]]:
    return [entry for entry in slices.entries() if entry.view.for_waker]


def _free(key: Key, taken: set[int | None]) -> int:
    digest = hashlib.sha256(f"{key.namespace}/{key.name}".encode()).digest()
    first = int.from_bytes(digest[:4], "big")
    for step in range(PORTS):
        port = FIRST_PORT + (first + step) % PORTS
        if port not in taken:
            return port
    raise RuntimeError(f"all {PORTS} ports of the waker are taken: no more pools can go to zero")
