"""Waiting for a worker of a pool, and asking for one while somebody waits."""

import asyncio
import itertools
import logging
import time
from collections.abc import Awaitable, Callable

from vernal_waker import metrics
from vernal_waker.routes import PoolName, Route, Table

log = logging.getLogger(__name__)

AGAIN_SECONDS = 1.0
"""Between two calls for a worker while none is there: one may have been undone, or not have arrived."""
TRIED_SECONDS = 0.25
"""How long a worker that did not take a request is not tried again."""

Wake = Callable[[PoolName], Awaitable[bool]]
"""Set a pool's replicas to 1 if they are 0; False if that failed, which was logged. Raises nothing."""


class GoneError(Exception):
    """The pool has no slice for the waker any more: it was deleted, or may not go to zero."""


class LeavingError(Exception):
    """The waker ends."""


class Pool:
    """One pool's workers as they come and go. All methods belong to the event loop's thread."""

    def __init__(self, name: PoolName, route: Route, wake: Wake) -> None:
        self.name = name
        self.route: Route | None = route
        self._wake = wake
        self._waiting = 0
        self._changed = asyncio.Event()
        self._turn = itertools.count()
        self._tried: dict[tuple[str, int], float] = {}
        self._asking: asyncio.Task[None] | None = None
        self._story: _Story | None = None
        self._leaving = False
        self._count(0)

    def update(self, route: Route | None) -> None:
        """What the API server says now; None if the pool is not the waker's any more."""
        if route == self.route:
            return
        self.route = route
        if route is not None and route.targets and self._asking is not None:
            self._asking.cancel()  # so that the next one is asked for without delay
            self._asking = None
        self._tell()

    def leave(self) -> None:
        """Nobody waits any longer."""
        self._leaving = True
        self._tell()

    def _tell(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()

    def close(self) -> None:
        """It is gone, or the waker ends."""
        self.update(None)
        if not self._waiting:
            self._count(0)
        if self._asking is not None:
            self._asking.cancel()

    @property
    def awake(self) -> bool:
        """Whether there is a worker that takes requests, or was one a moment ago."""
        return self.route is not None and bool(self.route.targets)

    def tried(self, target: tuple[str, int]) -> None:
        """This worker has not taken a request: it goes, or is not there yet."""
        self._tried[target] = time.monotonic() + TRIED_SECONDS

    def answered(self) -> None:
        """A worker has begun to answer."""
        if self._story is not None:
            self._story.done()
            self._story = None

    async def target(self) -> tuple[str, int]:
        """A worker that takes requests, when there is one.

        Raises:
            GoneError: there will be none.
            LeavingError: there is none, and the waker ends.
        """
        self._count(1)
        try:
            while (found := self._pick()) is None:
                if self.route is None:
                    raise GoneError
                if self._leaving:
                    raise LeavingError
                self._ask()
                await self._change()
            return found
        finally:
            self._count(-1)

    def _count(self, more: int) -> None:
        self._waiting += more
        if self._waiting or self.route is not None:
            metrics.HELD.labels(self.name.namespace, self.name.name).set(self._waiting)
        else:
            metrics.HELD.remove(self.name.namespace, self.name.name)

    def _pick(self) -> tuple[str, int] | None:
        targets = self.route.targets if self.route is not None else ()
        now = time.monotonic()
        self._tried = {one: until for one, until in self._tried.items() if until > now and one in targets}
        fresh = [one for one in targets if one not in self._tried]
        if not fresh:
            return None
        if self._story is not None:
            self._story.endpoint()
        return fresh[next(self._turn) % len(fresh)]

    async def _change(self) -> None:
        """Until the route is another one, or a worker that was tried may be tried again."""
        pause = min(self._tried.values()) - time.monotonic() if self._tried else None
        try:
            async with asyncio.timeout(None if pause is None else max(0.0, pause)):
                await self._changed.wait()
        except TimeoutError:
            pass

    # -- asking for a worker ---

    def _ask(self) -> None:
        if self.route is not None and self.route.targets:
            return  # there is one; it only was tried already
        if self._asking is None or self._asking.done():
            if self._story is None:
                self._story = _Story(self.name)
            self._asking = asyncio.create_task(self._ask_until_there())

    async def _ask_until_there(self) -> None:
        while self._waiting and not self._leaving and self.route is not None and not self.route.targets:
            if await self._wake(self.name) and self._story is not None:
                self._story.asked()
            changed = self._changed
            try:
                async with asyncio.timeout(AGAIN_SECONDS):
                    await changed.wait()
            except TimeoutError:
                pass


class _Story:
    """Where the seconds of one wake went, by the waker's clock."""

    def __init__(self, pool: PoolName) -> None:
        self._pool, self._began = pool, time.monotonic()
        self._phases: dict[str, float] = {}

    def asked(self) -> None:
        self._phases.setdefault("asked", time.monotonic() - self._began)

    def endpoint(self) -> None:
        self._phases.setdefault("endpoint", time.monotonic() - self._began)

    def done(self) -> None:
        self._phases["first_byte"] = time.monotonic() - self._began
        for phase, seconds in self._phases.items():
            metrics.WAKE_SECONDS.labels(phase).observe(seconds)
        log.info("event=wake pool=%s %s", self._pool, " ".join(f"{k}={v:.3f}" for k, v in self._phases.items()))


class Pools:
    """All pools, by the port at which their requests come."""

    def __init__(self, wake: Wake) -> None:
        self._wake = wake
        self._pools: dict[PoolName, Pool] = {}
        self._by_port: dict[int, PoolName] = {}

    def update(self, now: Table) -> None:
        self._by_port = now.by_port()
        for name in now.routes.keys() - self._pools.keys():
            self._pools[name] = Pool(name, now.routes[name], self._wake)
        for name, pool in list(self._pools.items()):
            if name in now.routes:
                pool.update(now.routes[name])
            else:
                self._pools.pop(name).close()

    @property
    def ports(self) -> frozenset[int]:
        return frozenset(self._by_port)

    def name_at(self, port: int) -> PoolName | None:
        return self._by_port.get(port)

    def of(self, name: PoolName | None) -> Pool | None:
        return self._pools.get(name) if name is not None else None

    def leave(self) -> None:
        """Whoever waits for a worker, or comes to, is told to go."""
        for pool in self._pools.values():
            pool.leave()

    def close(self) -> None:
        for pool in self._pools.values():
            pool.close()
