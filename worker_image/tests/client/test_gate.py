"""A freeze needs that nothing runs, and holds back what comes."""

import asyncio
from contextlib import AsyncExitStack

import pytest
from vernal_worker.client.gate import Gate


def nothing() -> str:
    return ""


async def turns() -> None:
    """Let whatever can go on go on."""
    for _ in range(10):
        await asyncio.sleep(0)


async def test_what_runs_is_waited_for_and_what_comes_is_held_back() -> None:
    gate, order = Gate(), []

    async def late() -> None:
        async with gate.use():
            order.append("late")

    async with AsyncExitStack() as running:
        await running.enter_async_context(gate.use())
        shutting = asyncio.create_task(gate.shut(None, nothing))
        await turns()
        coming = asyncio.create_task(late())
        await turns()
        assert not shutting.done() and not order
        async with gate.use(meanwhile=True):  # may be what the freeze waits for
            order.append("meanwhile")
    await shutting
    assert gate.apart
    held = asyncio.create_task(gate.use(meanwhile=True).__aenter__())
    await turns()
    assert not held.done() and not coming.done(), "nobody is there to be asked"
    gate.open()
    await asyncio.gather(coming, held)
    assert order == ["meanwhile", "late"] and not gate.apart


async def test_a_wait_that_ends_says_for_what_and_changes_nothing() -> None:
    gate = Gate()
    with pytest.raises(TimeoutError, match=r"after 0\.001 s there runs request 7"):
        await gate.shut(0.001, lambda: "request 7")
    async with gate.use():
        with pytest.raises(TimeoutError, match="there runs 1 calls"):
            await gate.shut(0.001, nothing)
    await gate.shut(None, nothing)
    gate.open()


async def test_who_does_not_wait_any_more_leaves_it_open() -> None:
    gate = Gate()
    async with gate.use():
        shutting = asyncio.create_task(gate.shut(None, nothing))
        await turns()
        shutting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await shutting
    async with gate.use():
        pass


async def test_one_freeze_after_the_other() -> None:
    gate = Gate()
    await gate.shut(None, nothing)
    second = asyncio.create_task(gate.shut(None, nothing))
    await turns()
    assert not second.done()
    gate.open()
    await second
    gate.open()


def test_one_event_loop_after_the_other() -> None:
    """In each, somebody waits for a freeze to end."""
    gate = Gate()

    async def late() -> None:
        async with gate.use():
            pass

    async def wait() -> None:
        await gate.shut(None, nothing)
        held = asyncio.create_task(late())
        await turns()
        assert not held.done()
        gate.open()
        await held

    asyncio.run(wait())
    asyncio.run(wait())
