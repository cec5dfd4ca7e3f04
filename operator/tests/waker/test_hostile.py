"""The waker against clients and workers that do not behave: raw bytes on real sockets."""

import asyncio
import contextlib
import json
import logging
import socket
import tracemalloc
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack

import aiohttp
import pytest
from aiohttp import web
from common.ports import free_port
from patience import GUARD_SECONDS
from vernal_waker import connections, metrics
from vernal_waker import front as fronts
from vernal_waker.admission import Bounds
from vernal_waker.routes import PoolName, Route, Table
from waker.world import POOL, Make, Waker, Worker, comes, hello

OTHER = PoolName("other", "p")
Client = Callable[[int], Awaitable[tuple[asyncio.StreamReader, asyncio.StreamWriter]]]
Raw = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@pytest.fixture
async def connect() -> AsyncIterator[Client]:
    async with AsyncExitStack() as stack:

        async def made(port: int) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            stack.callback(writer.close)
            return reader, writer

        yield made


async def answer_to(connect: Client, port: int, sent: bytes) -> bytes:
    """All that comes until the connection ends."""
    reader, writer = await connect(port)
    writer.write(sent)
    async with asyncio.timeout(GUARD_SECONDS):
        return await reader.read()


def request(line: str, *headers: str, body: bytes = b"") -> bytes:
    return "\r\n".join([line, "Host: x", "Connection: close", *headers, "\r\n"]).encode() + body


def cut(reason: str) -> float:
    return metrics.REGISTRY.get_sample_value("vernal_waker_connections_closed_total", {"reason": reason}) or 0.0


@pytest.mark.parametrize("method", ["GET", "HEAD", "PUT", "DELETE", "OPTIONS", "POST"])
async def test_no_method_is_sent_again_where_the_answer_did_not_come(
    waker: Waker, connect: Client, method: str
) -> None:
    asked = 0

    async def dies(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal asked
        asked += 1
        await reader.readuntil(b"\r\n\r\n")
        writer.close()

    server = await asyncio.start_server(dies, "127.0.0.1", 0)
    waker.lead(("127.0.0.1", server.sockets[0].getsockname()[1]))
    answer = await answer_to(connect, waker.port, request(f"{method} /v1/x HTTP/1.1"))
    assert answer.startswith(b"HTTP/1.1 502 ") and asked == 1
    server.close()


@pytest.mark.parametrize(
    ("line", "asked_for"),
    [
        ("GET http://api.example.com/v1/models?a=%2F HTTP/1.1", "/v1/models?a=%2F"),
        ("GET http://api.example.com HTTP/1.1", "/"),
        ("GET http://api.example.com?a=1 HTTP/1.1", "/?a=1"),
        ("GET //evil.example/a/../b HTTP/1.1", "//evil.example/a/../b"),
        ("OPTIONS * HTTP/1.1", None),
        ("CONNECT evil.example:80 HTTP/1.1", None),
    ],
)
async def test_forms_of_targets(
    waker: Waker, worker: Worker, connect: Client, line: str, asked_for: str | None
) -> None:
    waker.lead(worker.target)
    answer = await answer_to(connect, waker.port, request(line))
    assert answer.startswith(b"HTTP/1.1 200 " if asked_for else b"HTTP/1.1 400 "), answer
    assert [found.raw_path for found in worker.requests] == ([asked_for] if asked_for else [])


async def test_a_protocol_that_is_only_offered_is_declined(waker: Waker, worker: Worker, connect: Client) -> None:
    """As Java's own client does with each request that is not encrypted."""
    waker.lead(worker.target)
    offer = (
        b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\n"
        b"HTTP2-Settings: AAMAAABkAAQAAP__\r\nContent-Length: 5\r\n\r\nhello"
    )
    reader, writer = await connect(waker.port)
    writer.write(offer)
    async with asyncio.timeout(GUARD_SECONDS):
        assert await reader.readline() == b"HTTP/1.1 200 OK\r\n"
    (found,) = worker.requests
    assert worker.bodies == [b"hello"] and not {"Upgrade", "HTTP2-Settings"} & found.headers.keys()


@pytest.mark.parametrize(
    ("header", "status"),
    [
        (b"X-Name: caf\xc3\xa9", 200),
        (b"X-Name: caf\xe9", 400),
        (b"Transfer-Encoding: chunked", 200),
        (b"Transfer-Encoding: gzip, chunked", 501),
    ],
)
async def test_what_would_not_come_through_whole_is_refused(
    waker: Waker, worker: Worker, connect: Client, header: bytes, status: int
) -> None:
    waker.lead(worker.target)
    name, _, value = header.partition(b": ")
    body = b"5\r\nhello\r\n0\r\n\r\n" if name == b"Transfer-Encoding" else b""
    sent = b"POST /a HTTP/1.1\r\nHost: x\r\nConnection: close\r\n" + header + b"\r\n\r\n" + body
    answer = await answer_to(connect, waker.port, sent)
    assert answer.startswith(f"HTTP/1.1 {status} ".encode()), answer
    given = [found.raw_headers for found in worker.requests]
    assert len(given) == (1 if status == 200 else 0)
    if given and name == b"X-Name":
        assert (name, value) in given[0]


@pytest.mark.parametrize(
    "sent",
    [
        request("POST /a HTTP/1.1", "Content-Length: 5", "Transfer-Encoding: chunked", body=b"0\r\n\r\n"),
        request("POST /a HTTP/1.1", "Content-Length: 5", "Content-Length: 6", body=b"hello!"),
        request("POST /a HTTP/1.1", "Transfer-Encoding: chunked", body=b"zz\r\n\r\n"),
        request("GET /a HTTP/1.1", "Authorization Bearer sk-secret: 1"),
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    ],
    ids=["length and chunks", "two lengths", "no chunk", "no header", "HTTP/2", "TLS"],
)
async def test_what_is_no_http_is_refused_and_its_words_are_in_no_log(
    waker: Waker, worker: Worker, connect: Client, sent: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    waker.lead(worker.target)
    answer = await answer_to(connect, waker.port, sent)
    assert b" 400 " in answer.splitlines()[0] and b"sk-secret" not in answer
    assert json.loads(answer.partition(b"\r\n\r\n")[2])["error"]["code"] == 400
    assert not worker.requests and not [found.getMessage() for found in caplog.records if found.levelno > logging.INFO]
    assert "sk-secret" not in caplog.text


async def test_a_body_that_ends_in_nonsense(waker: Waker, connect: Client) -> None:
    reader, writer = await connect(waker.port)
    writer.write(request("POST /a HTTP/1.1", "Transfer-Encoding: chunked", body=b"2\r\nhi\r\n"))
    await comes("it to be held", lambda: waker.admission.size == 2)
    writer.write(b"zz\r\n\r\n")
    async with asyncio.timeout(GUARD_SECONDS):
        answer = await reader.read()
    assert answer.startswith(b"HTTP/1.1 400 "), answer
    assert (waker.admission.requests, waker.admission.size) == (0, 0)


async def test_an_older_client_is_not_told_to_continue(waker: Waker, worker: Worker, connect: Client) -> None:
    waker.lead(worker.target)
    sent = b"POST /a HTTP/1.0\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\nhello"
    assert (await answer_to(connect, waker.port, sent)).startswith(b"HTTP/1.0 200 ")


async def test_a_worker_whose_node_is_gone_is_no_answer(
    waker: Waker, worker: Worker, connect: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its address takes no connection and refuses none: nothing was sent, so another one is asked."""
    monkeypatch.setattr("vernal_waker.pools.TRIED_SECONDS", GUARD_SECONDS)
    with socket.create_server(("127.0.0.1", 0), backlog=0) as deaf, contextlib.ExitStack() as stack:
        target = deaf.getsockname()
        with contextlib.suppress(TimeoutError):
            while True:  # until its backlog is full
                stack.enter_context(socket.create_connection(target, timeout=0.5))
        waker.lead(target)
        held = asyncio.create_task(answer_to(connect, waker.port, request("POST /a HTTP/1.1", "Content-Length: 0")))
        await comes("it to be tried", lambda: waker.pools.of(POOL)._tried)  # type: ignore[union-attr]
        waker.lead(target, worker.target)
        assert (await held).startswith(b"HTTP/1.1 200 ") and len(worker.requests) == 1


# -- what is bounded ---


async def test_who_only_announces_a_body_keeps_nobody_out(make: Make, worker: Worker, connect: Client) -> None:
    waker = await make(Bounds(requests=10, per_pool=10, size=1000, body=500))
    waker.lead(worker.target)
    for number in range(3):
        _, writer = await connect(waker.port)
        writer.write(request("POST /a HTTP/1.1", "Content-Length: 500"))
        await comes("it to be held", lambda count=number: waker.admission.requests == count + 1)  # type: ignore[misc]
    whole = request("POST /a HTTP/1.1", "Content-Length: 500", body=b"x" * 500)
    assert (await answer_to(connect, waker.port, whole)).startswith(b"HTTP/1.1 200 ")


async def test_a_body_that_trickles_is_not_waited_for(
    make: Make, worker: Worker, connect: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each byte in time, and the whole never."""
    monkeypatch.setattr(fronts, "BODY_SECONDS", 2 * GUARD_SECONDS)
    monkeypatch.setattr(fronts, "RATE_SECONDS", 0.0)
    monkeypatch.setattr(fronts, "BODY_RATE", 1 << 60)  # so that any byte comes too slowly
    waker = await make()
    waker.lead(worker.target)
    reader, writer = await connect(waker.port)
    writer.write(request("POST /a HTTP/1.1", "Content-Length: 1000000"))
    await comes("it to be held", lambda: waker.admission.requests == 1)
    writer.write(b"x")
    async with asyncio.timeout(GUARD_SECONDS):
        assert (await reader.readline()).startswith(b"HTTP/1.1 408 ")
    assert not worker.bodies
    await comes("it to be forgotten", lambda: waker.admission.requests == 0)


async def test_large_headers_count_and_larger_ones_are_refused(waker: Waker, connect: Client) -> None:
    _, writer = await connect(waker.port)
    writer.write(request("GET /a HTTP/1.1", *(f"X-{number}: {'x' * 1000}" for number in range(60))))
    await comes("it to be held", lambda: waker.admission.size > 50000)
    many = request("GET /a HTTP/1.1", *(f"X-{number}: {'x' * 1000}" for number in range(70)))
    assert (await answer_to(connect, waker.port, many)).startswith(b"HTTP/1.1 431 ")
    writer.close()
    await comes("it to be forgotten", lambda: waker.admission.size == 0)


async def test_a_header_that_does_not_end(waker: Waker, connect: Client) -> None:
    before = cut("LargeHeader")
    reader, writer = await connect(waker.port)
    writer.write(b"GET /a HTTP/1.1\r\nHost: x\r\n")
    ended = asyncio.create_task(reader.read())
    async with asyncio.timeout(GUARD_SECONDS):
        for number in range(connections.HEADER_BYTES // 1000 + 1):
            assert not ended.done()
            writer.write(f"X-{number}: {'x' * 1000}\r\n".encode())
            await writer.drain()
        assert (await ended).startswith(b"HTTP/1.1 431 ")
    assert cut("LargeHeader") == before + 1


async def test_requests_ahead_of_an_answer_are_bounded(waker: Waker, worker: Worker, connect: Client) -> None:
    reader, writer = await connect(waker.port)
    writer.write(b"GET /first HTTP/1.1\r\nHost: x\r\n\r\n")
    await comes("it to be held", lambda: waker.admission.requests == 1)
    (mine,) = waker.front._places._open
    more = b"GET /more HTTP/1.1\r\nHost: x\r\nX-Long: " + b"x" * 8000 + b"\r\n\r\n"
    for _ in range(connections.HEADER_BYTES // len(more) + 1):
        writer.write(more)
        await writer.drain()
    await comes("it to be too much", lambda: mine._close)
    waker.lead(worker.target)
    async with asyncio.timeout(GUARD_SECONDS):
        answer = await reader.read()
    assert answer.startswith(b"HTTP/1.1 200 ") and answer.count(b"HTTP/1.1 ") == 1
    assert b"Connection: close" in answer, "the rest is to be sent again"
    assert [found.path for found in worker.requests] == ["/first"]


async def test_some_requests_ahead_of_an_answer_are_answered_in_turn(
    waker: Waker, worker: Worker, connect: Client
) -> None:
    reader, writer = await connect(waker.port)
    large, small = b"x" * 100000, b"y" * 1000
    for body in (large, small):  # a body is no header, however it is cut into pieces
        writer.write(b"POST /a HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
        await comes("the first to be held", lambda: waker.admission.size == len(large))
    waker.lead(worker.target)
    async with asyncio.timeout(GUARD_SECONDS):
        for _ in range(2):
            head = await reader.readuntil(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 200 ") and b"Connection: close" not in head
            await reader.readexactly(5)
    assert worker.bodies == [large, small]


async def test_connections_are_bounded_and_idle_ones_make_room(make: Make, worker: Worker, connect: Client) -> None:
    evicted, refused = cut("Evicted"), cut("Refused")
    waker = await make(Bounds(connections=2))
    idle, _ = await connect(waker.port)
    _, held = await connect(waker.port)
    held.write(b"GET /a HTTP/1.1\r\nHost: x\r\n\r\n")
    await comes("it to be held", lambda: waker.admission.requests == 1)
    _, also_held = await connect(waker.port)
    async with asyncio.timeout(GUARD_SECONDS):
        with pytest.raises(ConnectionError):
            if not await idle.read():
                raise ConnectionError
    also_held.write(b"GET /b HTTP/1.1\r\nHost: x\r\n\r\n")
    await comes("both to be held", lambda: waker.admission.requests == 2)
    answer = await answer_to(connect, waker.port, b"")
    assert answer.startswith(b"HTTP/1.1 503 ") and b"Retry-After: " in answer
    assert (cut("Evicted"), cut("Refused")) == (evicted + 1, refused + 1)
    held.close()
    await comes("it to be forgotten", lambda: waker.admission.requests == 1)
    waker.lead(worker.target)
    assert (await answer_to(connect, waker.port, request("GET /c HTTP/1.1"))).startswith(b"HTTP/1.1 200 ")


async def test_who_does_not_read_an_answer_is_cut(make: Make, connect: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fronts, "WRITE_SECONDS", 0.3)
    before, waker, gone = cut("SlowReader"), await make(), asyncio.Event()

    async def endless(request: web.BaseRequest) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        try:
            while True:
                await response.write(b"x" * 100000)
        finally:
            gone.set()

    worker = Worker(endless)
    waker.lead(await worker.start())
    reader, writer = await connect(waker.port)
    writer.write(request("GET /a HTTP/1.1"))
    async with asyncio.timeout(GUARD_SECONDS):
        await reader.readline()
        await gone.wait()  # what is not read does not pile up, and the worker is told
    assert cut("SlowReader") == before + 1
    await worker.stop()


# -- whose a connection is ---


async def test_a_kept_connection_stays_its_pools_whoever_has_the_port_later(
    waker: Waker, worker: Worker, connect: Client
) -> None:
    waker.lead(worker.target)
    reader, writer = await connect(waker.port)
    writer.write(b"GET /mine HTTP/1.1\r\nHost: x\r\nX-Secret: mine\r\n\r\n")
    async with asyncio.timeout(GUARD_SECONDS):
        await reader.readuntil(b"hello")
    others = Worker(hello)
    waker.pools.update(Table({OTHER: Route(waker.port, True, (await others.start(),))}))
    await waker.front.follow()
    writer.write(b"GET /mine HTTP/1.1\r\nHost: x\r\nX-Secret: mine\r\n\r\n")
    async with asyncio.timeout(GUARD_SECONDS):
        assert (await reader.readline()).startswith(b"HTTP/1.1 503 ")
    assert not others.requests
    assert (await answer_to(connect, waker.port, request("GET /theirs HTTP/1.1"))).startswith(b"HTTP/1.1 200 ")
    assert [found.path for found in others.requests] == ["/theirs"]
    await others.stop()


async def test_a_kept_connection_finds_its_pool_at_another_port(waker: Waker, worker: Worker, connect: Client) -> None:
    waker.lead(worker.target)
    reader, writer = await connect(waker.port)
    for port in (waker.port, free_port()):
        waker.pools.update(Table({POOL: Route(port, True, (worker.target,))}))
        await waker.front.follow()
        writer.write(b"GET /a HTTP/1.1\r\nHost: x\r\n\r\n")
        async with asyncio.timeout(GUARD_SECONDS):
            assert (await reader.readuntil(b"hello")).startswith(b"HTTP/1.1 200 ")


# -- the end ---


async def test_who_waits_when_the_time_to_leave_is_over_is_told_to_come_again(
    waker: Waker, client: aiohttp.ClientSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fronts, "PARTING_SECONDS", GUARD_SECONDS)
    task = asyncio.create_task(client.post(waker.url, data=b"x"))
    await comes("it to be held", lambda: waker.admission.requests == 1)
    await waker.front.stop(0.1)
    answer = await task
    assert answer.status == 503 and "Retry-After" in answer.headers and "try again" in await answer.text()
    assert waker.admission.requests == 0


async def test_the_body_of_what_is_being_answered_is_kept_no_longer(waker: Waker, connect: Client) -> None:
    """It counts no longer, and an answer may take minutes."""
    size, go = 16 << 20, asyncio.Event()

    async def take(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        left = size
        while left:
            left -= len(await reader.read(1 << 16))
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nfirst")
        await go.wait()
        writer.write(b"-last")
        writer.close()

    server = await asyncio.start_server(take, "127.0.0.1", 0)
    waker.lead(("127.0.0.1", server.sockets[0].getsockname()[1]))
    reader, writer = await connect(waker.port)
    tracemalloc.start()
    try:
        writer.write(request("POST /a HTTP/1.1", f"Content-Length: {size}"))
        for _ in range(size >> 16):
            writer.write(b"x" * (1 << 16))
            await writer.drain()
        async with asyncio.timeout(GUARD_SECONDS):
            await reader.readuntil(b"first")
            _, most = tracemalloc.get_traced_memory()
            assert most > size, "it was held"
            await comes("it to be given back", lambda: tracemalloc.get_traced_memory()[0] < size // 4)
            go.set()
            assert await reader.read() == b"-last"
    finally:
        tracemalloc.stop()
    server.close()
