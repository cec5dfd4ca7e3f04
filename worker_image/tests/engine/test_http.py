"""The gate in front of vLLM's application, on a real server and real sockets."""

import asyncio
import http.client
import json
import socket
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from patience import GUARD_SECONDS, until
from vernal_worker.control.protocol import Serving
from vernal_worker.engine.gate import Gate, Receive, Scope, Send
from vernal_worker.engine.http import HttpServer

STREAM, PLAIN, HALF, CHAT = "/v1/completions", "/v1/models", "/half", "/v1/messages"


class App:
    """Streams one event a 20th of a second, or answers once `finish` is set."""

    def __init__(self) -> None:
        self.finish = asyncio.Event()
        self.ended: list[str] = []

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        path = scope["path"]
        try:
            if path in (STREAM, CHAT):
                await self._stream(send)
            elif path == HALF:
                await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"9")]})
                await send({"type": "http.response.body", "body": b"half", "more_body": True})
                await self.finish.wait()
            else:
                if path == "/slow":
                    await self.finish.wait()
                await send({"type": "http.response.start", "status": 200, "headers": []})
                await send({"type": "http.response.body", "body": path.encode()})
        finally:
            self.ended.append(path)

    async def _stream(self, send: Send) -> None:
        headers = [(b"content-type", b"text/event-stream; charset=utf-8")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        number = 0
        while not self.finish.is_set():
            await send({"type": "http.response.body", "body": b'data: {"n":%d}\n\n' % number, "more_body": True})
            number += 1
            await asyncio.sleep(0.05)
        await send({"type": "http.response.body", "body": b"data: [DONE]\n\n"})


class Served:
    """A gate on a loopback port; its methods are called in its loop."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        threading.Thread(target=self.loop.run_forever, daemon=True).start()
        self.app: App = self.call(self._make_app)
        self.gate = Gate(self.app)
        self.http = HttpServer(self.gate, keep_alive=int(GUARD_SECONDS))
        with socket.create_server(("127.0.0.1", 0)) as listener:
            self.port: int = listener.getsockname()[1]
            fd = listener.detach()
        self.wait(self.http.listen(fd))

    def _make_app(self) -> App:
        return App()

    def call(self, function: Callable[..., Any], *arguments: Any) -> Any:
        async def run() -> Any:
            return function(*arguments)

        return self.wait(run())

    def wait(self, awaitable: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(awaitable, self.loop).result(GUARD_SECONDS)

    def connect(self) -> http.client.HTTPConnection:
        return http.client.HTTPConnection("127.0.0.1", self.port, timeout=GUARD_SECONDS)


@pytest.fixture
def served() -> Iterator[Served]:
    result = Served()
    yield result
    result.call(result.app.finish.set)
    result.wait(result.http.close(5))
    result.loop.call_soon_threadsafe(result.loop.stop)


def begin(served: Served, path: str) -> http.client.HTTPResponse:
    connection = served.connect()
    connection.request("GET", path)
    return connection.getresponse()


def test_requests_are_counted_until_their_last_byte(served: Served) -> None:
    answer = begin(served, STREAM)
    assert answer.readline() == b'data: {"n":0}\n'
    assert (served.gate.in_flight, served.gate.accepted_total) == (1, 1)
    served.call(served.app.finish.set)
    assert answer.read().endswith(b"data: [DONE]\n\n")
    until("nothing in flight", lambda: served.gate.in_flight == 0)
    assert served.gate.accepted_total == 1


def test_probes_are_not_work(served: Served) -> None:
    assert begin(served, "/health").status == 200
    assert begin(served, "/metrics").status == 200
    assert served.gate.accepted_total == 0


def test_a_client_that_goes_away_is_not_counted_for_ever(served: Served) -> None:
    connection = served.connect()
    connection.request("GET", STREAM)
    connection.getresponse().readline()
    connection.close()
    served.call(served.app.finish.set)
    until("nothing in flight", lambda: served.gate.in_flight == 0)


def test_leaving_accepts_and_says_so_on_health(served: Served) -> None:
    stream = begin(served, STREAM)
    served.call(served.http.leave, 2 * GUARD_SECONDS)
    answer = begin(served, "/health")
    told = json.loads(answer.read())
    assert answer.status == 503 and told["status"] == "draining"
    assert GUARD_SECONDS < told["seconds_left"] <= 2 * GUARD_SECONDS and told["in_flight"] == 1
    served.call(served.http.leave, 5.0)
    assert json.loads(begin(served, "/health").read())["seconds_left"] <= 5, "a second signal shortens the wait"
    served.call(served.app.finish.set)
    stream.read()
    assert begin(served, PLAIN).status == 200


def test_draining_finishes_what_was_accepted_and_refuses_the_rest(served: Served) -> None:
    idle = served.connect()
    idle.request("GET", PLAIN)
    idle.getresponse().read()
    answer = begin(served, STREAM)
    served.call(served.http.stop_listening)
    until("a closed port", lambda: refused(served.port))
    idle.request("GET", PLAIN)
    refusal = idle.getresponse()
    assert refusal.status == 503
    assert (refusal.headers["Retry-After"], refusal.headers["Connection"]) == ("1", "close")
    assert json.loads(refusal.read())["error"]["code"] == 503
    served.call(served.app.finish.set)
    assert answer.read().endswith(b"data: [DONE]\n\n")
    until("nothing in flight", lambda: served.gate.in_flight == 0)


def refused(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=GUARD_SECONDS).close()
    except ConnectionRefusedError:
        return True
    return False


def test_aborting_ends_each_request_in_its_own_format(served: Served) -> None:
    stream, half, chat = begin(served, STREAM), begin(served, HALF), begin(served, CHAT)
    stream.readline()
    waiting = served.connect()
    waiting.request("GET", "/slow")
    until("four in flight", lambda: served.gate.in_flight == 4)
    assert served.wait(served.gate.abort_all()) == 4
    events = [line for line in stream.read().split(b"\n\n") if line]
    assert events[-1] == b"data: [DONE]"
    assert json.loads(events[-2].strip().removeprefix(b"data: "))["error"]["code"] == 503
    named = chat.read().split(b"\n\n")[-2]
    assert named.startswith(b"event: error\ndata: ")
    assert json.loads(named.partition(b"data: ")[2])["type"] == "error"
    answer = waiting.getresponse()
    assert answer.status == 503 and answer.headers["Retry-After"] == "1"
    with pytest.raises(http.client.IncompleteRead):
        half.read()
    assert served.gate.in_flight == 0 and served.gate.serving is Serving.ABORTED
    assert sorted(served.app.ended) == sorted([STREAM, HALF, CHAT, "/slow"])


def test_the_api_key(served: Served) -> None:
    served.call(served.gate.require_keys, ["sesame", "other"])

    def status(path: str, header: str | None) -> int:
        connection = served.connect()
        connection.request("GET", path, headers={"Authorization": header} if header else {})
        return connection.getresponse().status

    assert status(PLAIN, None) == status(PLAIN, "Bearer wrong") == status(PLAIN, "Basic sesame") == 401
    assert status(PLAIN, "Bearer sesame") == status(PLAIN, "bearer other") == 200
    assert status("/tokenize", None) == 401
    assert status("/health", None) == 200
    assert served.gate.accepted_total == 2


def test_a_socket_is_taken_once(served: Served) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        fd = listener.detach()
    with pytest.raises(RuntimeError, match="already"):
        served.wait(served.http.listen(fd))
