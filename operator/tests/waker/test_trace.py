"""The request that wakes a pool is a trace; what the worker is told of it; and what all others say goes through."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, suppress

import aiohttp
import pytest
from aiohttp import web
from common.ports import free_port
from controlplane.collector import Collector, Received
from patience import GUARD_SECONDS
from vernal_operator import tracing
from vernal_operator.tracing import Tracer
from vernal_waker.admission import Admission, Bounds
from vernal_waker.front import Front
from vernal_waker.pools import Pools
from vernal_waker.relay import trace_context
from vernal_waker.routes import PoolName, Route, Table

POOL = PoolName("ns", "p")
PARENT = f"00-{'a' * 32}-{'b' * 16}-01"
ANOTHER = f"00-{'c' * 32}-{'d' * 16}-01"


class World:
    """A waker of one pool, its worker, and clients. `woken`: what the next call for a worker comes to."""

    def __init__(self, tracer: Tracer | None) -> None:
        self._port = free_port()
        self.woken: bool | None = True
        self.scaled = asyncio.Event()  # without which the API server does not answer
        self.go = asyncio.Event()  # without which the worker does not
        self.scaled.set()
        self.go.set()
        self.asked: list[str] = []
        self.told: list[tuple[str, str | None, str | None]] = []  # body, traceparent, tracestate
        self.pools = Pools(self._wake, tracer)
        self.front = Front(self.pools, Admission(Bounds()), GUARD_SECONDS, "127.0.0.1")

    def held(self) -> int:
        return self.front._admission.requests

    async def start(self, stack: AsyncExitStack) -> None:
        self._server = web.Server(self._work)
        made = await asyncio.get_running_loop().create_server(self._server, "127.0.0.1", 0)
        self._target: tuple[str, int] = made.sockets[0].getsockname()
        await self.front.start()
        self.lead()
        await self.front.follow()
        self._client = await stack.enter_async_context(aiohttp.ClientSession())
        stack.push_async_callback(self.front.stop, 0.1)
        stack.push_async_callback(self._server.shutdown, 0.1)
        stack.callback(made.close)

    async def _wake(self, pool: PoolName, trace: str) -> bool | None:
        self.asked.append(trace)
        await self.scaled.wait()
        return self.woken

    async def _work(self, request: web.BaseRequest) -> web.StreamResponse:
        body, headers = (await request.read()).decode(), request.headers
        self.told.append((body, headers.get("traceparent"), headers.get("tracestate")))
        await self.go.wait()
        return web.Response(text="hello")

    def lead(self, *, ready: bool = False) -> None:
        self.pools.update(Table({POOL: Route(self._port, True, (self._target,) if ready else ())}))

    def ask(self, body: str, **headers: str) -> "asyncio.Task[int]":
        async def ask() -> int:
            async with self._client.post(f"http://127.0.0.1:{self._port}/v1/x", data=body, headers=headers) as answer:
                await answer.read()
                return answer.status

        return asyncio.create_task(ask())


async def comes(what: str, probe: Callable[[], object]) -> None:
    async with asyncio.timeout(GUARD_SECONDS):
        while not probe():  # noqa: ASYNC110
            await asyncio.sleep(0.01)


@pytest.fixture
def collector(monkeypatch: pytest.MonkeyPatch) -> Iterator[Collector]:
    with Collector() as made:
        for name, value in made.environment().items():
            monkeypatch.setenv(name, value)
        monkeypatch.setattr("vernal_waker.pools.AGAIN_SECONDS", GUARD_SECONDS)
        yield made


@pytest.fixture
async def world(collector: Collector) -> AsyncIterator[World]:
    async with AsyncExitStack() as stack:
        tracer = tracing.set_up("vernal-waker", lambda result, spans: None)
        assert tracer is not None
        stack.callback(tracer.close)
        made = World(tracer)
        await made.start(stack)
        yield made


async def spans(collector: Collector, number: int) -> dict[str, Received]:
    await comes(f"{number} spans", lambda: len(collector.spans) >= number)
    assert len(collector.spans) == number
    return {span.name: span for span in collector.spans}


async def test_the_request_that_wakes_the_pool_goes_on_as_its_trace(world: World, collector: Collector) -> None:
    first = world.ask("first", traceparent=PARENT, tracestate="vendor=1")
    await comes("a worker to be asked for", lambda: world.asked)
    second = world.ask("second", traceparent=ANOTHER)
    third = world.ask("third")
    await comes("all to be held", lambda: world.held() == 3)
    world.lead(ready=True)
    assert {await first, await second, await third} == {200}
    found = await spans(collector, 4)
    wake = found["wake"]
    assert {span.trace for span in found.values()} == {"a" * 32} and wake.parent == "b" * 16
    assert (found["held"].parent, found["scale"].parent, found["first_byte"].parent) == (
        wake.id, found["held"].id, wake.id,
    )  # fmt: skip
    assert wake.attributes == {
        "k8s.namespace.name": "ns", "vernal.pool.name": "p", "vernal.wake.outcome": "answered"
    }  # fmt: skip
    mine = f"00-{'a' * 32}-{wake.id}-01"
    assert world.asked == [mine], "the operator goes on from here"
    assert sorted(world.told, key=lambda told: told[0]) == [
        ("first", mine, "vendor=1"), ("second", ANOTHER, None), ("third", None, None),
    ]  # fmt: skip


async def test_a_request_without_a_trace_begins_one(world: World, collector: Collector) -> None:
    asked = world.ask("x")
    await comes("a worker to be asked for", lambda: world.asked)
    world.lead(ready=True)
    assert await asked == 200
    wake = (await spans(collector, 4))["wake"]
    assert wake.parent == "" and world.asked[0][:53] == f"00-{wake.trace}-{wake.id}-"
    assert world.told == [("x", world.asked[0], None)]
    assert await world.ask("y") == 200
    assert world.told[1] == ("y", None, None), "nobody was woken for this one"


@pytest.mark.parametrize("woken", [False, None])
async def test_who_has_not_woken_the_pool_tells_nothing(world: World, collector: Collector, woken: bool | None) -> None:
    """Another waker has, or an autoscaler: that is whose start it is."""
    world.woken = woken
    asked = world.ask("x", traceparent=PARENT)
    await comes("a worker to be asked for", lambda: world.asked)
    world.lead(ready=True)
    assert await asked == 200
    assert world.told == [("x", PARENT, None)]
    world.lead()
    world.woken = True
    asked = world.ask("y", traceparent=ANOTHER)
    await comes("it to be asked for once more", lambda: len(world.asked) == 2)
    world.lead(ready=True)
    assert await asked == 200
    assert {span.trace for span in (await spans(collector, 4)).values()} == {"c" * 32}


@pytest.mark.parametrize("early", [False, True], ids=["", "before the API server has answered"])
async def test_a_client_that_goes_away_ends_its_trace(
    world: World, collector: Collector, caplog: pytest.LogCaptureFixture, early: bool
) -> None:
    """Else the next request would go on with it, and its line in the log would say that it took as long."""
    caplog.set_level("INFO")
    if early:
        world.scaled.clear()
    gone = world.ask("gone", traceparent=PARENT)
    await comes("a worker to be asked for", lambda: world.asked)
    gone.cancel()
    with suppress(asyncio.CancelledError):
        await gone
    await comes("it to be held no more", lambda: world.held() == 0)
    world.scaled.set()
    found = await spans(collector, 3)
    assert found["wake"].attributes["vernal.wake.outcome"] == "gone" and "first_byte" not in found
    later = world.ask("later", traceparent=ANOTHER)
    await comes("it to be held", lambda: world.held() == 1)
    world.lead(ready=True)
    assert await later == 200
    (line,) = [record.getMessage() for record in caplog.records if "event=wake" in record.getMessage()]
    assert "asked=" not in line, "it is told from the one who waited for it"
    assert world.told == [("later", ANOTHER, None)] and world.asked != [] and len(collector.spans) == 3


async def test_a_worker_that_is_there_before_the_api_server_has_answered(world: World, collector: Collector) -> None:
    """Its wake is a trace all the same: the operator may hang the start below it."""
    world.scaled.clear()
    asked = world.ask("x", traceparent=PARENT)
    await comes("a worker to be asked for", lambda: world.asked)
    world.lead(ready=True)
    assert await asked == 200 and not collector.spans
    world.scaled.set()
    found = await spans(collector, 4)
    assert found["wake"].attributes["vernal.wake.outcome"] == "answered"
    assert world.asked == [f"00-{'a' * 32}-{found['wake'].id}-01"]


async def test_a_waker_that_ends_tells_of_a_wake_whose_client_went_away(world: World, collector: Collector) -> None:
    world.go.clear()
    gone = world.ask("gone", traceparent=PARENT)
    await comes("a worker to be asked for", lambda: world.asked)
    world.lead(ready=True)
    await comes("it to be with the worker", lambda: world.told)
    gone.cancel()
    with suppress(asyncio.CancelledError):
        await gone
    world.pools.close()
    assert (await spans(collector, 3))["wake"].attributes["vernal.wake.outcome"] == "gone"


async def test_a_client_that_goes_away_from_a_worker_ends_its_trace_by_the_next_wake(
    world: World, collector: Collector
) -> None:
    world.go.clear()
    gone = world.ask("gone", traceparent=PARENT)
    await comes("a worker to be asked for", lambda: world.asked)
    world.lead(ready=True)
    await comes("it to be with the worker", lambda: world.told)
    gone.cancel()
    with suppress(asyncio.CancelledError):
        await gone
    await comes("it to be held no more", lambda: world.held() == 0)
    world.lead()
    world.go.set()
    later = world.ask("later", traceparent=ANOTHER)
    await comes("a worker to be asked for", lambda: len(world.asked) == 2)
    world.lead(ready=True)
    assert await later == 200
    await comes("both", lambda: len(collector.spans) == 7)
    outcomes = {
        span.trace[0]: span.attributes["vernal.wake.outcome"] for span in collector.spans if span.name == "wake"
    }
    assert outcomes == {"a": "gone", "c": "answered"}


async def test_without_tracing_everything_goes_through(collector: Collector) -> None:
    async with AsyncExitStack() as stack:
        world = World(None)
        await world.start(stack)
        asked = world.ask("x", traceparent=PARENT, tracestate="vendor=1")
        await comes("a worker to be asked for", lambda: world.asked)
        world.lead(ready=True)
        assert await asked == 200 and await world.ask("y", traceparent="not one") == 200
        assert world.told == [("x", PARENT, "vendor=1"), ("y", "not one", None)]
        assert world.asked == [""] and not collector.spans


def test_a_trace_context_is_one_parent_and_its_states() -> None:
    assert trace_context([("TraceParent", PARENT), ("tracestate", "a=1"), ("x", "y"), ("Tracestate", "b=2")]) == {
        "traceparent": PARENT, "tracestate": "a=1,b=2",
    }  # fmt: skip
    assert trace_context([("traceparent", PARENT), ("traceparent", ANOTHER)]) == {}
    assert trace_context([("tracestate", "a=1")]) == {}
