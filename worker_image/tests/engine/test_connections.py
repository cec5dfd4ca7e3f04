"""What clients may cost: connections, slow and large headers, bodies that do not come, answers that are not read."""

import contextlib
import http.client
import json
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from typing import Any

import pytest
from patience import GUARD_SECONDS, until
from served import PLAIN, STREAM, Served
from vernal_worker.engine import pool
from vernal_worker.engine.pool import Limits

Serve = Callable[..., Served]
SOON = 0.2
"""A limit that a test waits to be used up; what is to outlast it is held by the test."""


def cut(reason: str) -> float:
    return pool._closed.labels(reason)._value.get()


@pytest.fixture
def counted() -> Callable[[str], float]:
    """How many connections were cut for a reason since the test began."""
    slow_or_large = ("SlowHeader", "LargeHeader", "SlowBody", "LargeBody", "SlowReader")
    reasons = ("Evicted", "Refused", "Silent", "Pipelined", *slow_or_large)
    before = {reason: cut(reason) for reason in reasons}
    return lambda reason: cut(reason) - before[reason]


def open_one(served: Served, data: bytes = b"") -> socket.socket:
    connection = socket.create_connection(("127.0.0.1", served.port), timeout=GUARD_SECONDS)
    connection.sendall(data)
    return connection


def heard(served: Served, counted: Callable[[str], float], data: bytes) -> socket.socket:
    """A connection whose request came before a short `keep_alive` was over, which counts from the accept."""

    def asked() -> socket.socket | None:
        silent = counted("Silent")
        with contextlib.suppress(ConnectionError):
            connection = open_one(served, data)
            until("it to be heard or closed", lambda: served.gate.accepted_total or counted("Silent") > silent)
            return connection if served.gate.accepted_total else None
        return None

    return until("a request that is heard", asked)


def rest(connection: socket.socket) -> bytes:
    """What comes until the server closes; it is a hang if it never does."""
    data = bytearray()
    with contextlib.suppress(ConnectionError):
        while part := connection.recv(1 << 16):
            data += part
    return bytes(data)


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
    used = heard(served, counted, b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
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


@pytest.mark.parametrize("how", ["last", "1.0", "leaving", "kept"])
def test_who_does_not_read_its_last_answer_is_reset_too(
    serve: Serve, counted: Callable[[str], float], how: str
) -> None:
    """The server closes a connection only when all is written, and that may never be."""
    served = serve(limits=Limits(write_seconds=2 * SOON), keep_alive=SOON if how == "kept" else 60.0)
    if how == "leaving":
        served.call(served.http.leave, 60.0)
    version, more = ("1.0" if how == "1.0" else "1.1"), (b"Connection: close\r\n" if how == "last" else b"")
    ask_for = b"GET /big HTTP/" + version.encode() + b"\r\nHost: x\r\n" + more + b"\r\n"
    deaf = heard(served, counted, ask_for)
    until("the deaf client is cut", lambda: counted("SlowReader") == 1)
    until("no connection", lambda: not served.http.server.server_state.connections)
    deaf.close()


def test_who_is_sent_away_is_gone_although_it_does_not_read(serve: Serve, counted: Callable[[str], float]) -> None:
    """Else connections that are not counted any more use up the descriptors."""
    served = serve(limits=Limits(connections=2, grace_seconds=0.0))
    deaf = [open_one(served, b"GET /big HTTP/1.1\r\nHost: x\r\n\r\n") for _ in range(2)]
    until("both answers are handed over", lambda: served.app.ended.count("/big") == 2)
    clients = [served.connect() for _ in range(2)]
    for client in clients:
        client.request("GET", PLAIN)
        assert client.getresponse().read() == PLAIN.encode()
    until("the deaf to be gone", lambda: len(served.http.server.server_state.connections) == 2)
    assert counted("Evicted") == 2
    for connection in deaf:
        connection.close()


def test_an_answer_that_is_read_slowly_outlasts_those_that_do_nothing(
    serve: Serve, counted: Callable[[str], float]
) -> None:
    served = serve(limits=Limits(connections=4, grace_seconds=0.0))
    reader = open_one(served, b"GET /big HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
    until("the answer is handed over", lambda: served.app.ended == ["/big"])
    idle = [open_one(served) for _ in range(12)]
    until("nine evictions", lambda: counted("Evicted") >= 9)
    assert len(rest(reader)) > 64 << 20
    for connection in idle:
        connection.close()


def test_requests_in_a_row_are_answered_in_a_row(served: Served) -> None:
    row = b"GET /v1/models HTTP/1.1\r\nHost: x\r\n\r\n" * 12
    last = b"GET /health HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    answers = rest(open_one(served, row + last))
    assert answers.count(b"HTTP/1.1 200 ") == 13 and answers.count(PLAIN.encode()) == 12


def test_requests_in_a_row_are_not_queued_without_end(serve: Serve, counted: Callable[[str], float]) -> None:
    """Not even where the application looks again and again whether its client is there, with which reading goes on."""
    served = serve()
    connection = open_one(served, b"GET /poll HTTP/1.1\r\nHost: x\r\n\r\n")
    with contextlib.suppress(ConnectionError):
        for _ in range(100):
            connection.sendall(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n" * 1000)
    assert rest(connection) == b""
    assert counted("Pipelined") == 1
    until("the request is over", lambda: served.gate.in_flight == 0)


def test_a_body_behind_another_request_is_not_read_before_its_turn(serve: Serve) -> None:
    served = serve()
    size = 32 << 20
    head = b"POST /echo HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: %d\r\n\r\n" % size
    connection = open_one(served, b"GET /poll HTTP/1.1\r\nHost: x\r\n\r\n" + head)
    sender = threading.Thread(target=connection.sendall, args=[bytes(size)])
    sender.start()
    until("the first to be under way", lambda: served.gate.in_flight == 1)
    (made,) = served.http.server.server_state.connections
    until("a part of the body", lambda: len(made.cycle.body) > 1 << 16)  # type: ignore[union-attr]
    polls = served.app.polls
    until("the application to look on", lambda: served.app.polls > polls + 20)
    assert len(made.cycle.body) < 1 << 20, "it is not kept in memory"  # type: ignore[union-attr]
    served.call(served.app.finish.set)
    answers = rest(connection)
    sender.join()
    assert answers.count(b"HTTP/1.1 200 ") == 2


CHUNK = b"10000\r\n" + bytes(1 << 16) + b"\r\n"


@pytest.mark.parametrize(
    "head, body",
    [
        (b"Content-Length: 20000000000\r\n", b""),
        (b"Content-Length: 2097152\r\n", bytes(2 << 20)),
        (b"Transfer-Encoding: chunked\r\n", CHUNK * 32),
        (b"Transfer-Encoding: chunked\r\n", CHUNK + b"0\r\nX: " + bytes([120]) * (2 << 20)),
    ],
    ids=["20 GB", "two megabytes", "chunks", "a trailer"],
)
def test_a_body_may_have_so_many_bytes(serve: Serve, counted: Callable[[str], float], head: bytes, body: bytes) -> None:
    """Who sends it to the end still reads why it was refused."""
    served = serve(limits=Limits(body_bytes=1 << 20))
    answer = rest(open_one(served, b"POST /echo HTTP/1.1\r\nHost: x\r\n" + head + b"\r\n" + body))
    assert status_of(answer) == 413 and b"1048576" in answer
    assert counted("LargeBody") == 1
    until("the request is over", lambda: served.gate.in_flight == 0)
    assert ask(served) == 200


@pytest.mark.parametrize("length", [b"Content-Length: 1048576\r\n\r\n", None], ids=["told", "chunks"])
def test_a_body_as_large_as_is_allowed_is_read(serve: Serve, length: bytes | None) -> None:
    served = serve(limits=Limits(body_bytes=1 << 20))
    body = length + bytes(1 << 20) if length else b"Transfer-Encoding: chunked\r\n\r\n" + CHUNK * 15 + b"0\r\n\r\n"
    answer = rest(open_one(served, b"POST /echo HTTP/1.1\r\nHost: x\r\nConnection: close\r\n" + body))
    assert status_of(answer) == 200


def test_the_size_of_bodies_is_what_the_pool_says(serve: Serve) -> None:
    served = serve(body_bytes=10)
    answer = rest(open_one(served, b"POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 11\r\n\r\nhello worlds"))
    assert status_of(answer) == 413


def test_a_body_after_its_answer_leaves_no_connection_for_ever(serve: Serve, counted: Callable[[str], float]) -> None:
    served = serve(keep_alive=SOON)
    served.call(served.gate.require_keys, ["sesame"])
    connection = open_one(served, b"POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\n")
    assert status_of(connection.recv(1 << 16)) == 401
    connection.sendall(b"hello")
    rest(connection)
    until("nobody left", lambda: not served.http.server.server_state.connections)


def test_half_a_body_after_its_answer_is_waited_for_only_so_long(serve: Serve, counted: Callable[[str], float]) -> None:
    served = serve(limits=Limits(body_seconds=SOON))
    served.call(served.gate.require_keys, ["sesame"])
    connection = open_one(served, b"POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\n")
    assert status_of(connection.recv(1 << 16)) == 401
    connection.sendall(b"he")
    assert rest(connection) == b""
    assert counted("SlowBody") == 1


def test_a_body_after_its_answer_may_have_so_many_bytes_too(serve: Serve, counted: Callable[[str], float]) -> None:
    """It has its answer: another one would be taken for that to the next request."""
    served = serve(limits=Limits(body_bytes=1 << 20))
    served.call(served.gate.require_keys, ["sesame"])
    connection = open_one(served, b"POST /echo HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n")
    assert status_of(connection.recv(1 << 16)) == 401
    with contextlib.suppress(ConnectionError):
        connection.sendall(CHUNK * 64)
    assert rest(connection) == b""
    assert counted("LargeBody") == 1


def test_half_bodies_lock_nobody_out(serve: Serve, counted: Callable[[str], float]) -> None:
    served = serve(limits=Limits(connections=4, grace_seconds=0.0))
    head = b"POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\nhalf"
    half = [open_one(served, head) for _ in range(4)]
    until("four bodies", lambda: served.gate.in_flight == 4)
    assert ask(served) == 200
    assert counted("Evicted") == 1 and counted("Refused") == 0
    answer = rest(half[0])
    assert status_of(answer) == 503 and b"x-vernal-not-accepted: 1" in answer, "the oldest, and it is told"
    for connection in half[1:]:
        connection.sendall(b"whole.")
        assert status_of(connection.recv(1 << 16)) == 200


def test_a_body_that_comes_byte_by_byte_ends(serve: Serve, counted: Callable[[str], float]) -> None:
    served = serve(limits=Limits(body_seconds=4 * SOON, body_rate=1000))
    connection = open_one(served, b"POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000\r\n\r\n")
    connection.settimeout(SOON / 10)
    answer = b""

    def answered() -> bool:
        nonlocal answer
        with contextlib.suppress(TimeoutError):
            connection.sendall(b"x")
            answer = connection.recv(1 << 16)
        return bool(answer)

    until("an end", answered)
    assert status_of(answer) == 408 and counted("SlowBody") == 1


HANDSHAKE = (
    b"GET /socket HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)


def upgraded(served: Served) -> list[Any]:
    return [each for each in list(served.http.server.server_state.connections) if hasattr(each, "writable")]


def test_a_websocket_that_is_not_read_is_reset_with_the_others(served: Served) -> None:
    deaf = open_one(served, HANDSHAKE)
    until("one that waits for its client", lambda: any(not each.writable.is_set() for each in upgraded(served)))
    assert served.wait(served.gate.abort_all(1.0)) == (1, 1)
    until("no connection", lambda: not served.http.server.server_state.connections)
    deaf.close()


def test_a_websocket_that_is_not_read_is_cut_like_any_other(serve: Serve, counted: Callable[[str], float]) -> None:
    served = serve(limits=Limits(write_seconds=SOON))
    deaf = open_one(served, HANDSHAKE)
    until("the deaf client is cut", lambda: counted("SlowReader") == 1)
    until("no connection", lambda: not served.http.server.server_state.connections)
    deaf.close()


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
    files = [open("/dev/null") for _ in range(4)]
    print("descriptors were left", flush=True)
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
        assert server.stdout.readline() == "descriptors were left\n"
        for client in clients:
            client.close()
        tell(server)
        assert server.wait(GUARD_SECONDS) == 0


def test_where_there_are_few_descriptors_half_of_them_are_the_worker_s_own(serve: Serve) -> None:
    with limited(32, 32) as server:
        assert server.stdout
        port, limit, _ = json.loads(server.stdout.readline())
        assert 1 <= limit < 16
        clients = [socket.create_connection(("127.0.0.1", port), timeout=GUARD_SECONDS) for _ in range(limit + 8)]
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=GUARD_SECONDS)
        connection.request("GET", "/")
        assert connection.getresponse().read() == b"ok"
        tell(server)
        assert server.stdout.readline() == "descriptors were left\n"
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
