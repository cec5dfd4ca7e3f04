"""A waker of one pool on real sockets, and small workers for it."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from aiohttp import web
from common.ports import free_port
from patience import GUARD_SECONDS
from vernal_waker.admission import Admission, Bounds
from vernal_waker.front import Front
from vernal_waker.pools import Pools
from vernal_waker.routes import PoolName, Route, Table

POOL = PoolName("ns", "p")
Handler = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]


async def comes(what: str, probe: Callable[[], Any]) -> None:
    async with asyncio.timeout(GUARD_SECONDS):
        while not probe():  # noqa: ASYNC110
            await asyncio.sleep(0.01)


class Worker:
    """A small HTTP server."""

    def __init__(self, handler: Handler) -> None:
        self._handler = handler
        self.bodies: list[bytes] = []
        self.requests: list[web.BaseRequest] = []

    async def start(self) -> tuple[str, int]:
        self._server = web.Server(self._take, handler_cancellation=True, auto_decompress=False, max_field_size=64 << 10)
        made = await asyncio.get_running_loop().create_server(self._server, "127.0.0.1", 0)
        self.target = ("127.0.0.1", made.sockets[0].getsockname()[1])
        self._made = made
        return self.target

    async def _take(self, request: web.BaseRequest) -> web.StreamResponse:
        self.requests.append(request)
        self.bodies.append(await request.read())
        return await self._handler(request)

    async def stop(self) -> None:
        self._made.close()
        await self._server.shutdown(0.1)


async def hello(request: web.BaseRequest) -> web.StreamResponse:
    return web.Response(text="hello", headers={"X-A": "1"})


class Waker:
    """A waker of one pool, of which tests say where its workers are."""

    def __init__(self, bounds: Bounds, hold: float) -> None:
        self.port = free_port()
        self.asked = 0
        self.admission = Admission(bounds)
        self.pools = Pools(self._wake)
        self.front = Front(self.pools, self.admission, hold, "127.0.0.1")
        self.on_wake: Callable[[], None] = int  # type: ignore[assignment]

    async def _wake(self, pool: PoolName, trace: str) -> bool:
        self.asked += 1
        self.on_wake()
        return True

    def lead(self, *targets: tuple[str, int], stands: bool = True) -> None:
        self.pools.update(Table({POOL: Route(self.port, stands, targets)}))

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1/completions"


Make = Callable[..., Awaitable[Waker]]
