"""The program's end of the connection, when the engine's end is not what it should be."""

import asyncio
import gc
import os
from collections.abc import AsyncGenerator, AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import zmq
import zmq.asyncio
from patience import GUARD_SECONDS


@pytest.fixture
async def engine(tmp_path: Path) -> AsyncIterator[Any]:
    """The socket that the program connects to."""
    context = zmq.asyncio.Context()
    socket = context.socket(zmq.ROUTER)
    socket.bind(f"ipc://{tmp_path / 'api.sock'}")
    yield socket
    context.destroy(0)


@pytest.fixture
async def connection(engine: Any, tmp_path: Path) -> AsyncIterator[Any]:
    from vernal_worker.client.connection import Connection

    alive = os.pidfd_open(os.getpid())
    connection = Connection(str(tmp_path / "api.sock"), alive)
    os.close(alive)
    yield connection
    connection.close()


async def begun(connection: Any) -> Any:
    from vllm import SamplingParams

    return connection.start("r", "prompt", SamplingParams(), {})


@pytest.mark.parametrize("last", ["an output", "the last output", "a pooled one"])
async def test_an_event_that_makes_no_sense_ends_all_that_wait(engine: Any, connection: Any, last: str) -> None:
    """Also the request that it is about, and that would be over with it."""
    from vernal_worker.engine import wire
    from vllm.v1.engine.exceptions import EngineDeadError

    peer, _ = await engine.recv_multipart()
    queue = await begun(connection)
    call = asyncio.create_task(connection.call("check_health", (), {}))
    await asyncio.sleep(0)
    nonsense: Any = wire.Output(1, last == "the last output", [], {"no_such_attribute": 1}, [1])
    if last == "a pooled one":
        nonsense = wire.Pooled(1, {"no_such_attribute": 1})
    await engine.send_multipart([peer, wire.encoder()(wire.Batch([nonsense], 0, 0))])
    async with asyncio.timeout(GUARD_SECONDS):
        with pytest.raises(EngineDeadError, match="not understood"):
            await queue.get()
        with pytest.raises(EngineDeadError, match="not understood"):
            await call
    assert connection.dead is not None and not connection.busy
    with pytest.raises(EngineDeadError, match="not understood"):
        await begun(connection)


async def test_an_engine_that_falls_silent_is_taken_for_gone(
    engine: Any, connection: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from vernal_worker.client import connection as module
    from vernal_worker.engine import wire
    from vllm.v1.engine.exceptions import EngineDeadError

    monkeypatch.setattr(wire, "BEAT_SECONDS", 0.001)
    monkeypatch.setattr(module, "SILENT_BEATS", 5)
    queue = await begun(connection)
    with pytest.raises(EngineDeadError, match="said nothing"):
        await asyncio.wait_for(queue.get(), GUARD_SECONDS)


async def test_what_is_no_request_is_refused_at_once(connection: Any) -> None:
    """Without a prompt, the engine would wait for one in chunks."""
    from vllm import SamplingParams

    itself: list[Any] = []
    itself.append(itself)
    for prompt, params, why in (
        (None, SamplingParams(), "the prompt is None"),
        ("prompt", None, "must be SamplingParams or PoolingParams, not NoneType"),
        ("prompt", {"max_tokens": 4}, "must be SamplingParams or PoolingParams, not dict"),
        ({"prompt_token_ids": itself}, SamplingParams(), "holds itself"),
    ):
        with pytest.raises(TypeError, match=why):
            connection.start("r", prompt, params, {})
    assert not connection.busy


@pytest.mark.parametrize("late", ["a part", "the end", "an error"])
async def test_what_comes_of_a_prompt_after_its_request_is_not_heard(connection: Any, late: str) -> None:
    """Nor sent: the socket may be gone. What became of the request stays."""
    from vllm import SamplingParams
    from vllm.engine.protocol import StreamingInput
    from vllm.v1.engine.exceptions import EngineDeadError

    go, unheard = asyncio.Event(), list[Any]()
    connection.loop.set_exception_handler(lambda _, context: unheard.append(context))

    async def inputs() -> AsyncGenerator[Any, None]:
        yield StreamingInput(prompt={"type": "token", "prompt_token_ids": [5, 9]})
        await go.wait()
        if late == "a part":
            yield StreamingInput(prompt={"type": "token", "prompt_token_ids": [6, 9]})
        elif late == "an error":
            raise ZeroDivisionError

    queue = connection.start("r", inputs(), SamplingParams(), {})
    feeding = queue._input_stream_task
    await asyncio.sleep(0)
    connection.close()
    go.set()
    async with asyncio.timeout(GUARD_SECONDS):
        await feeding
        with pytest.raises(EngineDeadError, match="shut down"):
            await queue.get()
    gc.collect()  # what became of a message that nobody sees is told then
    assert not unheard


async def test_a_call_that_is_cancelled_as_the_connection_ends_is_cancelled(connection: Any) -> None:
    call = asyncio.create_task(connection.call("check_health", (), {}))
    await asyncio.sleep(0)
    call.cancel()
    connection.close()
    with pytest.raises(asyncio.CancelledError):
        await call


def test_nobody_waits_for_an_engine_that_is_gone(tmp_path: Path) -> None:
    from vernal_worker.client.asking import ask
    from vernal_worker.engine import wire

    with pytest.raises(TimeoutError, match="the engine is gone"):
        ask(str(tmp_path / "none.sock"), wire.Ask(), GUARD_SECONDS, lambda: False)


def test_the_number_of_what_is_not_understood() -> None:
    import msgspec
    from vernal_worker.engine import wire

    encode = msgspec.msgpack.encode
    assert wire.number_of(encode(["generate", 7, "r", msgspec.msgpack.Ext(99, b"?")])) == 7
    deep, no_text = b"\x91" * 20_000 + b"\x90", b"\x92\xa4call\xa1\xff"
    for data in (b"", encode(["hello"]), encode({"a": 1}), encode(["call", "x"]), deep, no_text):
        assert wire.number_of(data) is None
