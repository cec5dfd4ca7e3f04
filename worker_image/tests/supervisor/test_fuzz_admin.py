"""The admin port, which whoever reaches the pod reaches: each request has an answer that is HTTP's or none, none is a
traceback in the worker's log, and probes are answered as before."""

import http.client
import socket
import threading
from contextlib import suppress
from functools import cache
from typing import Any

from fuzz.documents import NUMBERS, TEXTS, damaged
from fuzz.profile import PROFILE
from hypothesis import given
from hypothesis import strategies as st
from patience import GUARD_SECONDS, until
from vernal_contract.state import Phase, WorkerState
from vernal_worker.supervisor import admin, log, metrics
from vernal_worker.supervisor.board import Board

TOKEN = "sesame"


class Source:
    """A worker that serves, and drains when it is told to."""

    def __init__(self) -> None:
        state = WorkerState(pod="p", namespace="n", pool="o", revision="r", phase=Phase.READY)
        self.board = Board(state)
        self.drained = False

    def live(self) -> str | None:
        return None

    def ready(self) -> str | None:
        return None

    def started(self, wait: float = 0.0) -> str | None:
        assert 0.0 <= wait <= admin.MOST_WAIT_SECONDS
        return None

    def state(self) -> WorkerState:
        return self.board.snapshot()

    def metrics(self) -> str:
        return metrics.text(self.state())

    def drain(self) -> str | None:
        self.drained = True
        return None


failures: list[object] = []


@cache
def served() -> tuple[Source, Any, int]:
    """A port that is served for the rest of this process. What the log says of failures is kept."""
    tell = log.failure

    def failure(event: str, /, **fields: object) -> None:
        failures.append((event, fields))
        tell(event, **fields)

    log.failure = failure  # type: ignore[assignment]
    source, listener = Source(), socket.create_server(("127.0.0.1", 0))
    server = admin._Server(listener, source, TOKEN)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return source, server, listener.getsockname()[1]


odd = st.sampled_from([*map(str, NUMBERS), *TEXTS, "\u00b2", "chunked", "100-continue", "9" * 5000, "nan", "Bearer"])
words = (odd | st.text(max_size=10)).map(lambda text: text.encode("utf-8", "replace"))
methods = st.sampled_from([b"GET", b"POST", b"HEAD", b"PUT", b"OPTIONS", b"CONNECT", b"get"]) | words
paths = st.sampled_from(
    [b"/livez", b"/readyz", b"/startupz", b"/state", b"/metrics", b"/drain", b"*", b"http://x/livez"]
)
targets = st.builds(
    lambda path, query: path + query,
    paths | words,
    st.just(b"") | st.builds(lambda name, value: b"?" + name + b"=" + value, st.just(b"wait") | words, words),
)
versions = st.sampled_from([b" HTTP/1.1", b" HTTP/1.0", b" HTTP/0.9", b" HTTP/2.0", b" HTTP/1.\xb2", b" HTTP/1", b""])
names = st.sampled_from(
    [
        b"Host",
        b"Content-Length",
        b"Transfer-Encoding",
        b"Authorization",
        b"Connection",
        b"Expect",
        b"Upgrade",
        b"Cookie",
    ]
)
headers = st.lists(st.tuples(names | words, words), max_size=4)
ends = st.sampled_from([b"\r\n", b"\n", b"\r\n ", b"\0\r\n", b"\r"])


@st.composite
def requests(draw: st.DrawFn) -> bytes:
    end = draw(ends) if draw(st.integers(0, 4)) == 0 else b"\r\n"
    lines = [draw(methods) + b" " + draw(targets) + draw(versions)]
    lines += [name + b": " + value for name, value in draw(headers)]
    return end.join([*lines, b"", b""]) + draw(st.just(b"") | st.binary(max_size=100))


good = st.sampled_from(
    [
        b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET /startupz?wait=0.001 HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
        b"POST /drain HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n{}",
        b"GET /state HTTP/1.1\r\nHost: x\r\n" + b"".join(b"X-%d: y\r\n" % n for n in range(120)) + b"\r\n",
    ]
)
one = requests() | good | good.flatmap(damaged) | st.binary(max_size=200)
conversations = one | st.lists(one, min_size=2, max_size=4).map(b"".join)


@PROFILE
@given(conversations, st.booleans())
def test_each_request_has_an_answer_of_http_s_and_the_next_probe_too(data: bytes, reset: bool) -> None:
    """`reset`: the client goes away without having read."""
    source, server, port = served()
    before = len(failures)
    with socket.create_connection(("127.0.0.1", port), timeout=GUARD_SECONDS) as connection:
        if reset:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        with suppress(OSError):  # it may have hung up already
            connection.sendall(data)
            connection.shutdown(socket.SHUT_WR)
        answer = b"" if reset else read(connection)
    assert not source.drained, "it takes the token"
    assert_http(answer)
    probe = http.client.HTTPConnection("127.0.0.1", port, timeout=GUARD_SECONDS)
    probe.request("GET", "/livez")
    assert probe.getresponse().status == 200
    probe.close()
    until("the connections to be done with", lambda: not server._connections)
    assert failures[before:] == []


def read(connection: socket.socket) -> bytes:
    parts = []
    with suppress(ConnectionError):
        while part := connection.recv(1 << 16):
            parts.append(part)
    return b"".join(parts)


def assert_http(data: bytes) -> None:
    """It begins with an answer whose status is not a fault of the server's; of HTTP/0.9 there is a body alone."""
    if data.startswith(b"HTTP/"):
        status = int(data.split(b" ", 2)[1])
        assert status < 500 or status in (501, 503, 505), data[:200]
    else:
        assert b"Traceback" not in data
