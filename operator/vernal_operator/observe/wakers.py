"""Where the waker's pods are, and by which port each of them knows a pool."""

import hashlib
import threading
from collections.abc import Callable
from typing import Any

from vernal_contract import names

from vernal_operator.client import Client
from vernal_operator.kinds import Key
from vernal_operator.observe.cache import Cache, Entry
from vernal_operator.observe.informer import Informer
from vernal_operator.observe.views import SLICES_READER, SliceView
from vernal_operator.plan.model import Waker

FIRST_PORT, PORTS = 20000, 10000
"""Below those that a kernel takes for connections out (ip_local_port_range)."""


class Wakers:
    """The ready pods of the waker's Service. Thread-safe."""

    def __init__(self, client: Client, namespace: str, service: str, on_change: Callable[[], None]) -> None:
        """`on_change` is called when pods came or went."""
        self._cache: Cache[SliceView] = Cache(lambda old, new: on_change())
        selector = f"{names.LABEL_SERVICE}={service}"
        self.informer: Informer[SliceView] = Informer(
            client, SLICES_READER, self._cache, namespace=namespace, selector=selector
        )
        self._namespace = namespace
        self._ports = Ports()

    def of(self, key: Key, slices: Cache[SliceView]) -> Waker:
        """As a pool's plan is told. `slices`: of all pools, which hold the ports that were given before."""
        found = [address for entry in self._cache.in_namespace(self._namespace) for address in entry.view.ready]
        family = [a for a in found if ":" not in a] or found
        return Waker(tuple(sorted(family)), self._ports.of(key, slices))

    def forget(self, key: Key) -> None:
        """The pool is gone."""
        self._ports.forget(key)


class Ports:
    """One port a pool, and one pool a port. A pool keeps its port as long as its slice is there, over restarts too."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._given: dict[Key, int] = {}

    def of(self, key: Key, slices: Cache[Any]) -> int:
        """Raises: RuntimeError: all are taken."""
        with self._lock:
            if key not in self._given:
                written = {(e.namespace, e.group): e.view.port for e in _of_wakers(slices)}
                mine = written.pop((key.namespace, key.name), None)
                taken = {*self._given.values(), *written.values()}
                self._given[key] = mine if mine is not None and mine not in self._given.values() else _free(key, taken)
            return self._given[key]

    def forget(self, key: Key) -> None:
        with self._lock:
            self._given.pop(key, None)


def _of_wakers(slices: Cache[Any]) -> list[Entry[Any]]:
    return [entry for entry in slices.everything() if entry.view.for_waker]


def _free(key: Key, taken: set[int | None]) -> int:
    digest = hashlib.sha256(f"{key.namespace}/{key.name}".encode()).digest()
    first = int.from_bytes(digest[:4], "big")
    for step in range(PORTS):
        port = FIRST_PORT + (first + step) % PORTS
        if port not in taken:
            return port
    raise RuntimeError(f"all {PORTS} ports of the waker are taken: no more pools can go to zero")
