"""Waiting for a worker of a pool, and asking for one while somebody waits."""

import asyncio
import itertools
import logging
import time
from collections.abc import Awaitable, Callable, Mapping
from types import MappingProxyType

from vernal_operator.tracing import Tracer

from vernal_waker import metrics, timeline
from vernal_waker.routes import PoolName, Route, Table

log = logging.getLogger(__name__)

AGAIN_SECONDS = 1.0
"""Between two calls for a worker while none is there: one may have been undone, or not have arrived."""
TRIED_SECONDS = 0.25
"""How long a worker that did not take a request is not tried again."""

Wake = Callable[[PoolName, str], Awaitable[bool | None]]
"""Set a pool's replicas to 1 if they are 0, for a request with this `traceparent`; whether they were 0, or None if that
failed, which was logged. Raises nothing."""
_UNTOLD: Mapping[str, str] = MappingProxyType({})


class GoneError(Exception):
    """The pool has no slice for the waker any more: it was deleted, or may not go to zero."""


class LeavingError(Exception):
    """The waker ends."""


class Pool:
    """One pool's workers as they come and go. All methods belong to the event loop's thread."""

    def __init__(self, name: PoolName, route: Route, wake: Wake, tracer: Tracer | None = None) -> None:
        self.name, self._tracer = name, tracer
        self.route: Route | None = route
        self._wake = wake
        self._waiting = 0
        self._changed = asyncio.Event()
        self._turn = itertools.count()
        self._tried: dict[tuple[str, int], float] = {}
        self._asking: asyncio.Task[None] | None = None
        self._calls: set[asyncio.Task[None]] = set()
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

    def context(self, told: Mapping[str, str]) -> Mapping[str, str]:
        """The headers of W3C Trace Context by which a worker goes on with the trace of its wake; none but for the
        request that has woken the pool. `told`: what `target` was called with.
        """
        return self._story.context if self._story is not None and self._story.told is told else _UNTOLD

    async def target(self, told: Mapping[str, str] = _UNTOLD) -> tuple[str, int]:
        """A worker that takes requests, when there is one. `told`: the request's own `relay.trace_context`.

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
                self._ask(told)
                await self._change()
            return found
        finally:
            self._count(-1)
            if not self._waiting and self._story is not None and not self._story.found:
                self.forsake()

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

    def _ask(self, told: Mapping[str, str]) -> None:
        if self.route is not None and self.route.targets:
            return  # there is one; it only was tried already
        if self._story is not None and self._story.found and self._waiting == 1:
            self.forsake()  # whom that worker was for went away before it answered
        if self._story is None:
            self._story = _Story(self.name, told, self._tracer)
        if self._asking is None or self._asking.done():
            self._asking = asyncio.create_task(self._ask_until_there())

    async def _ask_until_there(self) -> None:
        while self._waiting and not self._leaving and self.route is not None and not self.route.targets:
            call = asyncio.create_task(self._call(self._story))
            self._calls.add(call)
            call.add_done_callback(self._calls.discard)
            await asyncio.shield(call)  # with a worker there before it has answered, it was this call all the same
            changed = self._changed
            try:
                async with asyncio.timeout(AGAIN_SECONDS):
                    await changed.wait()
            except TimeoutError:
                pass

    async def _call(self, story: "_Story | None") -> None:
        woken = await self._wake(self.name, story.traceparent if story is not None else "")
        if woken is not None and story is not None:
            story.asked(woken=woken)

    def forsake(self) -> None:
        """Nobody waits for this worker any more."""
        if self._story is not None:
            self._story.end("gone")
            self._story = None


class _Story:
    """Where the seconds of one wake went, by the waker's clock. It is a trace if it was this waker that woke the pool.

    `told`: what the request came with that asked.
    """

    def __init__(self, pool: PoolName, told: Mapping[str, str], tracer: Tracer | None) -> None:
        self._pool, self.told, self._began, self._since = pool, told, time.monotonic(), time.time()
        self._phases: dict[str, float] = {}
        self._opened = tracer.open("wake", self._since, told) if tracer is not None else None
        self._woke = False
        self._ended: tuple[str, float] | None = None  # how, and after how many seconds

    @property
    def traceparent(self) -> str:
        return self._opened.context.get("traceparent", "") if self._opened is not None else ""

    @property
    def context(self) -> Mapping[str, str]:
        return self._opened.context if self._opened is not None and self._woke else _UNTOLD

    @property
    def found(self) -> bool:
        """Whether there was a worker for who waits."""
        return "endpoint" in self._phases

    def asked(self, *, woken: bool) -> None:
        self._woke |= woken
        self._phases.setdefault("asked", time.monotonic() - self._began)
        self._trace()  # who asked may be gone already, or have its answer

    def endpoint(self) -> None:
        self._phases.setdefault("endpoint", time.monotonic() - self._began)

    def done(self) -> None:
        self._phases["first_byte"] = time.monotonic() - self._began
        for phase, seconds in self._phases.items():
            metrics.WAKE_SECONDS.labels(phase).observe(seconds)
        log.info("event=wake pool=%s %s", self._pool, " ".join(f"{k}={v:.3f}" for k, v in self._phases.items()))
        self.end("answered")

    def end(self, outcome: str) -> None:
        self._ended = outcome, time.monotonic() - self._began
        self._trace()

    def _trace(self) -> None:
        if self._opened is not None and self._woke and self._ended is not None:
            outcome, seconds = self._ended
            self._opened.close(timeline.wake(self._pool, self._since, seconds, self._phases, outcome))
            self._opened = None


class Pools:
    """All pools, by the port at which their requests come."""

    def __init__(self, wake: Wake, tracer: Tracer | None = None) -> None:
        self._wake, self._tracer = wake, tracer
        self._pools: dict[PoolName, Pool] = {}
        self._by_port: dict[int, PoolName] = {}

    def update(self, now: Table) -> None:
        self._by_port = now.by_port()
        for name in now.routes.keys() - self._pools.keys():
            self._pools[name] = Pool(name, now.routes[name], self._wake, self._tracer)
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
            pool.forsake()
