import contextlib
from collections.abc import AsyncIterator

import aiohttp
import pytest
from patience import GUARD_SECONDS
from vernal_waker.admission import Bounds
from waker.world import Make, Waker, Worker, hello


@pytest.fixture
async def make() -> AsyncIterator[Make]:
    async with contextlib.AsyncExitStack() as stack:

        async def made(bounds: Bounds | None = None, hold: float = GUARD_SECONDS) -> Waker:
            waker = Waker(bounds or Bounds(), hold)
            await waker.front.start()
            waker.lead()
            await waker.front.follow()
            stack.push_async_callback(waker.front.stop, 0.1)
            return waker

        yield made


@pytest.fixture
async def waker(make: Make) -> Waker:
    return await make()


@pytest.fixture
async def client() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=GUARD_SECONDS)) as session:
        yield session


@pytest.fixture
async def worker() -> AsyncIterator[Worker]:
    made = Worker(hello)
    await made.start()
    yield made
    await made.stop()
