"""What clients may cost: connections, slow and large headers, bodies that do not come, answers that are not read."""

import contextlib
import http.client
import json
import socket
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest
from patience import GUARD_SECONDS, until
from served import PLAIN, STREAM, Served
from vernal_worker.engine import connections
from vernal_worker.engine.connections import Limits

Serve = Callable[..., Served]
SOON = 0.2
"""A limit that a test waits to be used up; what is to outlast it is held by the test."""


def cut(reason: str) -> float:
    return connections._closed.labels(reason)._value.get()


@pytest.fixture
def counted() -> Callable[[str], float]:
    """How many connections were cut for a reason since the test began."""
    reasons = ("Evicted", "Refused", "Silent", "SlowHeader", "LargeHeader", "SlowBody", "SlowReader")
    before = {reason: cut(reason) for reason in reasons}
    return lambda reason: cut(reason) - before[reason]


def open_one(served: Served, data: bytes = b"") -> socket.socket:
    connection = socket.create_connection(("127.0.0.1", served.port), timeout=GUARD_SECONDS)
    connection.sendall(data)
    return connection


def rest(connection: socket.socket) -> bytes:
    """What comes until the server closes; it is a hang if it never does."""
    data = b""
    with contextlib.suppress(ConnectionError):
        while part := connection.recv(1 << 16):
            data += part
    return data


def status_of(answer: bytes) -> int:
    return int(answer.split(b" ", 2)[1])


def ask(served: Served, path: str = PLAIN) -> int:
    connection = served.connect()
    connection.request("GET", path)
    answer = connection.getresponse()
    answer.read()
    return answer.status


def test_a_burst_of_idle_connections_locks_nobody_out(serve: Serve, counted: Callable[[str], float]) -> None:
    served = serve(limits=Limits(connections=8, grace_seconds=0.0))
    stream = served.connect()
    stream.request("GET", STREAM)
    answer = stream.getresponse()
    idle = [open_one(served) for _ in range(40)]
    assert ask(served) == 200
    assert counted("Evicted") >= 33
    assert answer.readline().startswith(b"data: "), "what is under way is never evicted"
    assert rest(idle[0]) == b""
    assert len(served.http.server.server_state.connections) <= 8


def test_those_who_never_asked_go_before_those_who_pause(serve: Serve, counted: Callable[[str], float]) -> None:
    served = serve(limits=Limits(connections=4, grace_seconds=0.0))
    client = served.connect()
    for wanted in (5, 10, 15):
        client.request("GET", PLAIN)
        client.getresponse().read()
        strangers = [open_one(served) for _ in range(8)]
        until("15 evictions", lambda: counted("Evicted") >= wanted)  # noqa: B023
        assert client.sock is not None, "the client was not evicted"
        for stranger in strangers:
            stranger.close()


def test_when_all_are_busy_a_newcomer_is_told_so(serve: Serve, counted: Callable[[str], float]) -> None:
    served = serve(limits=Limits(connections=2, wait_seconds=0.0))
    streams = []
    for _ in range(2):
        connection = served.connect()
        connection.request("GET", STREAM)
        streams.append(connection.getresponse())
    answer = rest(open_one(served))
    assert status_of(answer) == 503 and b"retry-after: 1" in answer and b"x-vernal-not-accepted: 1" in answer
    assert json.loads(answer.partition(b"\r\n\r\n")[2])["error"]["code"] == 503
    assert counted("Refused") == 1
    served.call(served.app.finish.set)
    assert all(stream.read().endswith(b"[DONE]\n\n") for stream in streams)
    until("room for a newcomer", lambda: ask(served) == 200)


def test_who_has_just_come_is_not_sent_away_for_the_next_one(serve: Serve, counted: Callable[[str], float]) -> None:
    """In a burst, a client whose request is on its way looks like all the others. Who comes later waits."""
    served = serve(limits=Limits(connections=4, grace_seconds=GUARD_SECONDS, wait_seconds=GUARD_SECONDS))
    silent = [open_one(served) for _ in range(4)]
    until("four connections", lambda: len(served.http.server.server_state.connections) == 4)
    latecomer = open_one(served, b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
    silent[3].sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
    assert silent[3].recv(100).startswith(b"HTTP/1.1 200 "), "it got its chance"
    assert served.gate.accepted_total == 1 and counted("Evicted") == counted("Refused") == 0
    silent[0].close()
    assert status_of(rest(latecomer)) == 200
    for connection in silent[1:]:
        connection.close()


def test_who_connected_before_the_listener_closed_is_served_or_told(served: Served) -> None:
    """Also one that the server had not accepted yet."""
    served.call(served.http.leave, 30.0)

    def connect_and_close() -> list[socket.socket]:  # in the event loop, which accepts nothing meanwhile
        connected = [open_one(served, b"GET / HTTP/1.1\r\nHost: x\r\n\r\n") for _ in range(5)]
        served.http.stop_listening()
        return connected

    for connection in served.call(connect_and_close):
        assert status_of(rest(connection)) == 503


@pytest.mark.parametrize(
    "head",
    [
        b"GET / HTTP/1.1\r\nX: " + b"x" * 300_000_000,
        b"GET /" + b"x" * 3_000_000,
        b"GET / HTTP/1.1\r\n" + b"X: y\r\n" * 400,
    ],
    ids=["a field of 300 MB", "an address of 3 MB", "400 fields"],
)
def test_a_large_header_is_refused_while_it_comes(served: Served, counted: Callable[[str], float], head: bytes) -> None:
    connection = socket.create_connection(("127.0.0.1", served.port), timeout=GUARD_SECONDS)
    with contextlib.suppress(ConnectionError):
        connection.sendall(head + b"\r\n\r\n")
    answer = rest(connection)
    assert not answer or status_of(answer) == 431  # a reset may overtake the answer
    until("the large header is cut", lambda: counted("LargeHeader") == 1)
    assert ask(served) == 200
    assert served.gate.accepted_total == 1, "the application has not seen it"


def test_a_header_as_large_as_is_allowed_is_read(served: Served) -> None:
    connection = served.connect()
    connection.request("GET", PLAIN, headers={f"X-{number}": "y" * 200 for number in range(200)})
    assert connection.getresponse().status == 200


@pytest.mark.parametrize("head", [b"GET / HT", b"\r\n", b"POST / HTTP/1.1\r\nContent-Length: 5\r\n"])
def test_half_a_header_is_waited_for_only_so_long(serve: Serve, counted: Callable[[str], float], head: bytes) -> None:
    served = serve(limits=Limits(header_seconds=SOON))
    assert status_of(rest(open_one(served, head))) == 408
    assert counted("SlowHeader") == 1
    used = served.connect()  # and so between two requests of one connection
    used.request("GET", PLAIN)
    used.getresponse().read()
    assert used.sock
    used.sock.sendall(head)
    assert status_of(rest(used.sock)) == 408


def test_who_sends_nothing_is_closed_like_who_sends_nothing_more(serve: Serve, counted: Callable[[str], float]) -> None:
    served = serve(keep_alive=SOON)
    assert rest(open_one(served)) == b""
    assert counted("Silent") == 1
    used = open_one(served, b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
    assert status_of(rest(used)) == 200


def test_half_a_body_is_waited_for_only_so_long(serve: Serve, counted: Callable[[str], float]) -> None:
    served = serve(limits=Limits(body_seconds=SOON))
    head = b"POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\nhalf"
    assert status_of(rest(open_one(served, head))) == 408
    assert counted("SlowBody") == 1
    until("the request is over", lambda: served.gate.in_flight == 0)


def test_who_reads_nothing_does_not_hold_a_request_for_ever(serve: Serve, counted: Callable[[str], float]) -> None:
    served = serve(limits=Limits(write_seconds=SOON))
    connection = open_one(served, b"GET /flood HTTP/1.1\r\nHost: x\r\n\r\n")
    until("the deaf client is cut", lambda: counted("SlowReader") == 1)
    until("the request is over", lambda: served.gate.in_flight == 0)
    connection.close()


FULL = """
import asyncio, json, resource, socket, sys, uvloop
from vernal_worker.engine.gate import Gate
from vernal_worker.engine.http import HttpServer

async def app(scope, receive, send):
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
    await send({"type": "http.response.body", "body": b"ok"})

async def main():
    http = HttpServer(Gate(app))
    listener = socket.create_server(("127.0.0.1", 0), backlog=2048)
    port = listener.getsockname()[1]
    await http.listen(listener.detach(), 60.0)
    print(json.dumps([port, http.pool.limit, resource.getrlimit(resource.RLIMIT_NOFILE)]), flush=True)
    await asyncio.get_running_loop().run_in_executor(None, input)
    open("/dev/null").close()
    print("a descriptor was left", flush=True)
    await asyncio.get_running_loop().run_in_executor(None, input)
    await http.close(5)

uvloop.run(main())
"""


def limited(soft: int, hard: int) -> subprocess.Popen[str]:
    script = f"ulimit -Sn {soft}; ulimit -Hn {hard}; exec {sys.executable} -c '{FULL}'"
    return subprocess.Popen(["bash", "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def tell(server: Any) -> None:
    server.stdin.write("\n")
    server.stdin.flush()


def test_more_connections_than_descriptors(serve: Serve) -> None:
    """The limit of the process cannot be raised, and 1,100 clients connect."""
    with limited(512, 1024) as server:
        assert server.stdout
        port, limit, descriptors = json.loads(server.stdout.readline())
        assert descriptors == [1024, 1024], "the soft limit was raised"
        assert 512 < limit < 1024 - 200
        clients = [socket.create_connection(("127.0.0.1", port), timeout=GUARD_SECONDS) for _ in range(1100)]
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=GUARD_SECONDS)
        connection.request("GET", "/")
        assert connection.getresponse().read() == b"ok"
        tell(server)
        assert server.stdout.readline() == "a descriptor was left\n"
        for client in clients:
            client.close()
        tell(server)
        assert server.wait(GUARD_SECONDS) == 0


def test_the_limit_is_raised_as_vllm_does(serve: Serve) -> None:
    with limited(512, 20000) as server:
        assert server.stdout
        _, limit, descriptors = json.loads(server.stdout.readline())
        assert descriptors == [20000, 20000] and limit > 19000
        tell(server)
        tell(server)
        assert server.wait(GUARD_SECONDS) == 0


def test_of_requests_in_a_row_the_first_is_told_that_its_client_left(served: Served) -> None:
    """Else vLLM generates to the end for nobody."""
    connection = open_one(served, b"GET /wait HTTP/1.1\r\nHost: x\r\n\r\n" * 2)
    until("the first to be under way", lambda: served.gate.in_flight == 1)
    connection.close()
    until("nothing in flight", lambda: served.gate.in_flight == 0)
