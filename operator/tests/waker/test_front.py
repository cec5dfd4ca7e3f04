"""The waker's HTTP on real sockets: what is held, handed on, streamed, and what becomes of it when somebody goes."""

import asyncio
import contextlib
import gzip
import json
import socket
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from common.ports import free_port
from patience import GUARD_SECONDS
from vernal_contract import names
from vernal_waker import front as fronts
from vernal_waker.admission import Bounds
from vernal_waker.routes import Table
from waker.world import Make, Waker, Worker, comes, hello
from yarl import URL


async def test_requests_are_held_until_a_worker_comes_and_one_is_asked_for(
    waker: Waker, worker: Worker, client: aiohttp.ClientSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vernal_waker.pools.AGAIN_SECONDS", GUARD_SECONDS)

    async def ask(number: int) -> tuple[int, str, str]:
        async with client.post(waker.url, data=f"{number}") as answer:
            return answer.status, await answer.text(), answer.headers["X-A"]

    tasks = [asyncio.create_task(ask(n)) for n in range(20)]
    await comes("all to be held", lambda: waker.admission.requests == 20)
    await comes("a worker to be asked for", lambda: waker.asked)
    assert not worker.bodies
    waker.lead(worker.target)
    assert await asyncio.gather(*tasks) == [(200, "hello", "1")] * 20
    assert sorted(worker.bodies) == sorted(f"{n}".encode() for n in range(20))
    assert (waker.admission.requests, waker.admission.size) == (0, 0)
    assert waker.asked == 1, "one call for all that wait"


async def test_a_request_is_handed_on_as_it_came(waker: Waker, worker: Worker, client: aiohttp.ClientSession) -> None:
    waker.lead(worker.target)
    body = gzip.compress(b"x" * 100000)
    headers = {"Content-Encoding": "gzip", "Host": "api.example.com", "Authorization": "Bearer t", "Cookie": "a=b"}
    async with client.put(
        URL(f"{waker.url}?a=%2F&b=1", encoded=True), data=body, headers=headers, expect100=True
    ) as answer:
        assert answer.status == 200
    (found,) = worker.requests
    assert (found.method, found.raw_path, worker.bodies[0]) == ("PUT", "/v1/completions?a=%2F&b=1", body)
    assert {name: found.headers[name] for name in headers} == headers
    async with client.get(waker.url) as answer:
        assert await answer.text() == "hello"
    assert worker.bodies[1] == b"" and "Content-Type" not in worker.requests[1].headers
    async with client.head(waker.url) as answer:
        assert answer.headers["Content-Length"] == "5" and await answer.read() == b""


async def test_headers_as_large_as_a_worker_takes_them(make: Make) -> None:
    async def large(request: web.BaseRequest) -> web.StreamResponse:
        return web.Response(headers={"X-Large": request.headers["X-Token"]})

    waker, worker = await make(), Worker(large)
    waker.lead(await worker.start())
    token = b"x" * 60000
    reader, writer = await asyncio.open_connection("127.0.0.1", waker.port)
    writer.write(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\nX-Token: " + token + b"\r\n\r\n")
    answer = await reader.read()
    assert answer.startswith(b"HTTP/1.1 200 ") and b"X-Large: " + token in answer, answer[:200]
    writer.close()
    await worker.stop()


async def test_an_answer_is_streamed_and_its_end_is_its_own(make: Make, client: aiohttp.ClientSession) -> None:
    waker, go = await make(), asyncio.Event()

    async def stream(request: web.BaseRequest) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        await response.write(b"data: 1\n\n")
        await go.wait()
        await response.write(b"data: 2\n\n")
        return response

    worker = Worker(stream)
    waker.lead(await worker.start())
    async with client.post(waker.url, data=b"x") as answer:
        assert await answer.content.readany() == b"data: 1\n\n"
        assert waker.admission.requests == 0, "what is answered is held no more"
        go.set()
        assert await answer.content.read() == b"data: 2\n\n"
    await worker.stop()


async def test_a_client_that_goes_while_it_waits_is_forgotten(waker: Waker, worker: Worker) -> None:
    async with aiohttp.ClientSession() as session:
        task = asyncio.create_task(session.post(waker.url, data=b"never"))
        await comes("it to be held", lambda: waker.admission.requests == 1)
        task.cancel()
    await comes("it to be forgotten", lambda: waker.admission.requests == 0)
    waker.lead(worker.target)
    async with aiohttp.ClientSession() as session, session.post(waker.url, data=b"next") as answer:
        assert answer.status == 200
    assert worker.bodies == [b"next"]


async def test_a_client_that_goes_while_it_is_answered_is_told_to_the_worker(make: Make) -> None:
    waker, gone = await make(), asyncio.Event()

    async def stream(request: web.BaseRequest) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        await response.write(b"1")
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            gone.set()
            raise
        return response

    worker = Worker(stream)
    waker.lead(await worker.start())
    async with aiohttp.ClientSession() as session:
        answer = await session.post(waker.url, data=b"x")
        assert await answer.content.readany() == b"1"
        answer.close()
    async with asyncio.timeout(GUARD_SECONDS):
        await gone.wait()
    await worker.stop()


async def test_what_a_worker_did_not_let_in_goes_to_another_one(
    waker: Waker, worker: Worker, client: aiohttp.ClientSession
) -> None:
    async def leaving(request: web.BaseRequest) -> web.StreamResponse:
        return web.Response(status=503, headers={"x-vernal-not-accepted": "1"})

    going = Worker(leaving)
    gone = ("127.0.0.1", free_port())
    waker.lead(gone, await going.start(), worker.target)
    for number in range(6):
        async with client.post(waker.url, data=f"{number}") as answer:
            assert answer.status == 200, await answer.text()
    assert worker.bodies == [f"{n}".encode() for n in range(6)]
    assert going.bodies, "it was tried"
    await going.stop()


async def test_what_a_worker_may_have_done_is_not_sent_again(
    waker: Waker, worker: Worker, client: aiohttp.ClientSession
) -> None:
    async def dies(request: web.BaseRequest) -> web.StreamResponse:
        assert request.transport is not None
        request.transport.abort()
        return web.Response()

    dying = Worker(dies)
    waker.lead(await dying.start())
    async with client.post(waker.url, data=b"x") as answer:
        assert answer.status == 502 and "not asked again" in (await answer.json())["error"]["message"]
    assert dying.bodies == [b"x"] and not worker.bodies
    await dying.stop()


async def test_an_answer_that_breaks_off_does_not_look_whole(make: Make, client: aiohttp.ClientSession) -> None:
    waker, die = await make(), asyncio.Event()

    async def half(request: web.BaseRequest) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        await response.write(b"half")
        await die.wait()
        assert request.transport is not None
        request.transport.abort()
        return response

    worker = Worker(half)
    waker.lead(await worker.start())
    answer = await client.post(waker.url, data=b"x")
    assert await answer.content.readany() == b"half"
    die.set()
    with pytest.raises(aiohttp.ClientError):
        await answer.content.read()
    await worker.stop()


@pytest.mark.parametrize("known", [True, False], ids=["length known", "chunked"])
async def test_bounds(make: Make, client: aiohttp.ClientSession, known: bool) -> None:
    async def pieces(size: int) -> AsyncIterator[bytes]:
        for _ in range(size // 50):
            yield b"x" * 50

    def body(size: int) -> Any:
        return b"x" * size if known else pieces(size)

    waker = await make(Bounds(requests=3, per_pool=3, size=1000, body=500))
    async with client.post(waker.url, data=body(550)) as answer:
        assert answer.status == 413, await answer.text()
        assert "Retry-After" not in answer.headers
    held = [asyncio.create_task(client.post(waker.url, data=body(450))) for _ in range(2)]
    await comes("two to be held", lambda: waker.admission.size == 900)
    async with client.post(waker.url, data=body(150)) as answer:
        assert answer.status == 503 and int(answer.headers["Retry-After"]) > 0
        assert (await answer.json())["error"]["code"] == 503
    held.append(asyncio.create_task(client.post(waker.url, data=b"")))
    await comes("three to be held", lambda: waker.admission.requests == 3)
    async with client.post(waker.url, data=b"") as answer:
        assert answer.status == 503 and "Retry-After" in answer.headers
    worker = Worker(hello)
    waker.lead(await worker.start())
    for task in held:
        answer = await task
        assert answer.status == 200 and await answer.text() == "hello"
    assert len(worker.bodies) == 3 and (waker.admission.requests, waker.admission.size) == (0, 0)
    await worker.stop()


async def test_connections_are_kept_until_the_service_leads_elsewhere(
    waker: Waker, worker: Worker, client: aiohttp.ClientSession
) -> None:
    waker.lead(worker.target, stands=True)
    async with client.post(waker.url, data=b"1") as answer:
        assert answer.headers.get("Connection", "keep-alive") == "keep-alive"
    waker.lead(worker.target, stands=False)
    await waker.front.follow()
    async with client.post(waker.url, data=b"2") as answer:  # on the old connection, which still works
        assert answer.status == 200 and answer.headers["Connection"] == "close"
    assert worker.bodies == [b"1", b"2"]


async def test_nobody_waits_for_ever(make: Make, client: aiohttp.ClientSession) -> None:
    waker = await make(hold=0.2)
    async with client.post(waker.url, data=b"x") as answer:
        assert answer.status == 503 and "kubectl describe vwp -n ns p" in await answer.text()
    assert waker.asked >= 1 and waker.admission.requests == 0


async def test_a_slow_answer_is_no_late_worker(make: Make, client: aiohttp.ClientSession) -> None:
    waker, go = await make(hold=0.2), asyncio.Event()

    async def slow(request: web.BaseRequest) -> web.StreamResponse:
        await go.wait()
        return web.Response(text="at last")

    worker = Worker(slow)
    waker.lead(await worker.start())
    task = asyncio.create_task(client.post(waker.url, data=b"x"))
    await comes("the worker to have it", lambda: worker.bodies)
    await asyncio.sleep(0.5)  # longer than a request is held
    assert not task.done()
    go.set()
    assert await (await task).text() == "at last"
    await worker.stop()


async def test_a_pool_that_goes_is_told(waker: Waker, client: aiohttp.ClientSession) -> None:
    task = asyncio.create_task(client.post(waker.url, data=b"x"))
    await comes("it to be held", lambda: waker.admission.requests == 1)
    waker.pools.update(Table({}))
    answer = await task
    assert answer.status == 503 and "is gone" in await answer.text()
    await waker.front.follow()
    with pytest.raises(aiohttp.ClientConnectorError):
        await client.post(waker.url, data=b"x")


async def test_it_is_asked_again_while_somebody_waits(
    waker: Waker, worker: Worker, client: aiohttp.ClientSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vernal_waker.pools.AGAIN_SECONDS", 0.01)
    waker.on_wake = lambda: waker.lead(worker.target) if waker.asked == 3 else None
    async with client.post(waker.url, data=b"x") as answer:
        assert answer.status == 200
    assert waker.asked == 3


async def test_leaving_lets_what_is_held_go_on(waker: Waker, worker: Worker, client: aiohttp.ClientSession) -> None:
    task = asyncio.create_task(client.post(waker.url, data=b"x"))
    await comes("it to be held", lambda: waker.admission.requests == 1)
    stopping = asyncio.create_task(waker.front.stop(GUARD_SECONDS))
    await comes("nobody to be let in", lambda: not _listens(waker.port))
    assert not stopping.done()
    waker.lead(worker.target)
    answer = await task
    assert answer.status == 200 and answer.headers["Connection"] == "close"
    await stopping


def _listens(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port)):
        return True
    return False


async def test_a_websocket_is_asked_to_come_again(waker: Waker, worker: Worker, client: aiohttp.ClientSession) -> None:
    task = asyncio.create_task(client.ws_connect(waker.url))
    await comes("it to be held", lambda: waker.admission.requests == 1)
    waker.lead(worker.target)
    with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
        await task
    assert refused.value.status == 503 and refused.value.headers is not None
    assert refused.value.headers["Retry-After"] == str(fronts.RETRY_AFTER_SECONDS)


async def test_who_asks_after_the_server_wakes_nobody(
    waker: Waker, worker: Worker, client: aiohttp.ClientSession
) -> None:
    base = f"http://127.0.0.1:{waker.port}"
    found = {}
    for path in sorted(names.PROBES):
        async with client.get(f"{base}{path}?x=1") as answer:
            found[path] = answer.status
    assert found == {"/health": 200, "/ping": 200, "/metrics": 200, "/version": 503, "/load": 503}
    assert waker.asked == 0 and not worker.requests
    waker.lead(worker.target)
    async with client.get(f"{base}/health") as answer:
        assert await answer.text() == "hello", "where there is one, it speaks for itself"


async def test_half_a_request_is_nobodys(make: Make, monkeypatch: pytest.MonkeyPatch, worker: Worker) -> None:
    monkeypatch.setattr(fronts, "BODY_SECONDS", 0.1)
    waker = await make()
    waker.lead(worker.target)
    reader, writer = await asyncio.open_connection("127.0.0.1", waker.port)
    writer.write(b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\nhalf")
    answer = await reader.read()
    assert answer.startswith(b"HTTP/1.1 408 "), answer
    assert json.loads(answer.partition(b"\r\n\r\n")[2])["error"]["code"] == 408
    assert not worker.bodies and waker.admission.requests == 0
    writer.close()
