"""A reverse proxy on loopback between the operator and a real API server, which can do what networks and API servers
do at their worst, and which writes down every call.
"""

import http.client
import json
import math
import queue
import re
import socket
import ssl
import threading
import time
import urllib.parse
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from random import Random
from typing import Any, Literal

_IDLE_SECONDS = 20.0
"""Sooner than an API server closes a connection on which nothing is sent: a fault that nobody asked for."""
WRITES = ("POST", "PUT", "PATCH", "DELETE")


@dataclass
class Call:
    """One request. `index` counts the writes (0 for the first); -1 for reads. `status` is what the operator got, at the
    time `over`, which is infinite until then.
    """

    method: str
    path: str
    query: dict[str, str]
    body: Any
    index: int
    at: float = field(default_factory=time.monotonic)
    status: int = 0
    over: float = math.inf

    @property
    def is_watch(self) -> bool:
        return self.query.get("watch") == "true"

    @property
    def is_lease(self) -> bool:
        """Of leader election, which goes on all the time."""
        return self.path.startswith("/apis/coordination.k8s.io/")

    @property
    def is_write(self) -> bool:
        return self.method in WRITES and not self.is_lease

    @property
    def what(self) -> str:
        """What is done to which kind, such as `PATCH pods status`."""
        _, _, resource = self.path.partition("/namespaces/")
        return " ".join([self.method, *resource.split("/")[1::2]])

    @property
    def is_list(self) -> bool:
        return self.method == "GET" and not self.is_watch and "limit" in self.query

    @property
    def is_discovery(self) -> bool:
        """What kinds there are, not what objects."""
        return self.method == "GET" and re.fullmatch(r"/version|/api(/v1)?|/apis(/[^/]+){0,2}", self.path) is not None

    def __str__(self) -> str:
        return f"{self.method} {self.path} -> {self.status}"


@dataclass(frozen=True)
class Fault:
    """What happens to a call instead of the usual.

    `drop`: the connection breaks before the server saw the call, or after it answered; or the server answers and the
    connection is silent, until the operator gives it up. `status`: this answer, without asking the server, or, with
    `done`, after the server did it. `seconds`: so long it takes before any of it; alone, the call is only slow. `then`
    runs at that moment.
    """

    drop: Literal["before", "after", "never"] | None = None
    status: int | None = None
    done: bool = False
    retry_after: int | None = None
    seconds: float = 0.0
    then: Callable[[], None] = lambda: None

    @property
    def is_slow_only(self) -> bool:
        return self.drop is None and self.status is None


@dataclass(frozen=True)
class Watches:
    """How watches are served."""

    delay: float = 0.0  # seconds that each event comes late
    disorder: int | None = None  # a seed: events of different objects change places, and some come twice
    close_at_once: bool = False  # without a single event
    silent: bool = False  # without a single event, and without an end until the operator gives the watch up
    expired_when_opened: bool = False
    error: int | None = None  # of an ERROR event, the first and last of each watch

    @property
    def spoiled(self) -> bool:
        """Whether watches that are served so show nothing."""
        return self.close_at_once or self.silent or self.expired_when_opened or self.error is not None


class FaultProxy:
    """Forwards to `upstream` with the caller's own credentials. `url` is plain HTTP on loopback."""

    def __init__(self, upstream: str, ca: Path) -> None:
        parts = urllib.parse.urlsplit(upstream)
        self._host, self._port = parts.hostname or "", parts.port or 443
        self._tls = ssl.create_default_context(cafile=str(ca))
        self._idle: list[tuple[float, http.client.HTTPSConnection]] = []  # upstream, and since when
        self._lock = threading.Lock()
        self.calls: list[Call] = []
        self.watches = Watches()
        self.page: int | None = None  # objects on a page of a list, whatever the operator asks for
        self.injected = 0  # calls that a fault was done to, and watches that showed nothing
        self.spoiled: Counter[str] = Counter()  # watches that showed nothing, by their path
        self._healed: Callable[[], bool] = lambda: False
        self._open: set[http.client.HTTPSConnection] = set()  # upstream, of watches
        self._silent: set[socket.socket] = set()  # of the operator
        self.fault: Callable[[Call], Fault | None] = lambda call: None
        self._writes = 0
        proxy = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            wbufsize = -1  # headers and body in one packet

            def log_message(self, format: str, *args: Any) -> None:
                pass

            def _serve(self) -> None:
                proxy._serve(self)

            do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = _serve  # noqa: N815

        self._handler = Handler
        self._server = _Server(("127.0.0.1", 0), Handler)
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.5}, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}"

    def set_watches(self, watches: Watches) -> None:
        """From now on. Open watches are closed, with the error if there is one, or go silent."""
        self.watches = watches
        for connection in list(self._open):
            if connection.sock is not None:
                _shut(connection.sock)
        for sock in list(self._silent):
            _shut(sock)

    def spoil_watches(self, watches: Watches, kinds: int, times: int) -> None:
        """Spoil the watches of `kinds` kinds until each kind had `times` such watches; then serve them well."""
        self.spoiled.clear()
        self._healed = lambda: len(self.spoiled) >= kinds and min(self.spoiled.values()) >= times
        self.set_watches(watches)

    def close(self) -> None:
        self.set_watches(Watches(close_at_once=True))
        self._server.shutdown()
        self._server.server_close()

    def writes(self, since: float = 0.0) -> list[Call]:
        return [call for call in list(self.calls) if call.is_write and call.at >= since]

    def others(self, since: float) -> list[Call]:
        """Calls that came since then or were under way, but for watches, lists and leader election."""
        calls = [call for call in list(self.calls) if call.over >= since]
        return [call for call in calls if not (call.is_watch or call.is_list or call.is_lease)]

    # -- serving ---

    def _serve(self, handler: Any) -> None:
        length = int(handler.headers.get("Content-Length") or 0)
        data = handler.rfile.read(length) if length else b""
        parts = urllib.parse.urlsplit(handler.path)
        query = dict(urllib.parse.parse_qsl(parts.query))
        with self._lock:
            call = Call(handler.command, parts.path, query, json.loads(data) if data else None, -1)
            if call.is_write:
                call.index, self._writes = self._writes, self._writes + 1
            self.calls.append(call)
            fault = self.fault(call)  # one at a time, so that it may draw from a generator
            if fault is not None:
                self.injected += 1
        if self.page is not None and call.is_list:
            handler.path = re.sub(r"(?<=[?&]limit=)\d+", str(self.page), handler.path)
        try:
            if call.is_watch:
                self._watch(handler, call, fault)
            else:
                self._once(handler, call, data, fault)
        except OSError:
            handler.close_connection = True  # one of the two sides went away
        finally:
            call.over = time.monotonic()

    def _once(self, handler: Any, call: Call, data: bytes, fault: Fault | None) -> None:
        if fault is not None and fault.seconds:
            time.sleep(fault.seconds)
        if fault is not None and fault.is_slow_only:
            fault.then()
            fault = None
        if fault is not None and fault.drop not in ("after", "never") and not fault.done:
            fault.then()
            if fault.drop == "before":
                _break(handler)
            else:
                _answer(handler, call, fault.status or 500, fault.retry_after)
            return
        try:
            connection, response = self._forward(handler, data)
            body = response.read()
        except OSError:
            if fault is not None:  # the answer is lost as well
                fault.then()
            raise
        self._idle.append((time.monotonic(), connection))
        if fault is not None:
            fault.then()
            if fault.drop == "after":
                _break(handler)
            elif fault.drop == "never":
                self._say_nothing(handler)
            else:
                _answer(handler, call, fault.status or 500, fault.retry_after)
            return
        call.status = response.status
        handler.send_response(response.status)
        for name in ("Content-Type", "Retry-After"):
            if response.headers.get(name):
                handler.send_header(name, response.headers[name])
        handler.send_header("Content-Length", str(len(body)))
        handler.end_headers()
        handler.wfile.write(body)
        handler.wfile.flush()

    def _forward(self, handler: Any, data: bytes) -> tuple[http.client.HTTPSConnection, http.client.HTTPResponse]:
        headers = {
            name: handler.headers[name]
            for name in ("Authorization", "Accept", "Content-Type", "User-Agent")
            if handler.headers.get(name)
        }
        connection = self._connection()
        try:
            connection.request(handler.command, handler.path, data or None, headers)
            return connection, connection.getresponse()
        except (http.client.HTTPException, OSError) as error:
            connection.close()
            raise OSError(f"upstream: {error}") from error

    def _connection(self) -> http.client.HTTPSConnection:
        with suppress(IndexError):
            since, connection = self._idle.pop()
            if time.monotonic() - since < _IDLE_SECONDS:
                return connection
            connection.close()
        return http.client.HTTPSConnection(self._host, self._port, context=self._tls, timeout=300)

    def _watch(self, handler: Any, call: Call, fault: Fault | None) -> None:
        handler.close_connection = True
        if fault is not None and fault.status is not None:
            _answer(handler, call, fault.status, fault.retry_after)
            return
        watches = self.watches
        if watches.spoiled:
            self._spoil(handler, call, watches, begun=False)
            return
        connection, response = self._forward(handler, b"")
        call.status = response.status
        if response.status != 200:
            body = response.read()
            handler.send_response(response.status)
            handler.send_header("Content-Length", str(len(body)))
            handler.end_headers()
            handler.wfile.write(body)
            return
        _begin_watch(handler)
        self._open.add(connection)
        try:
            lines = _lines(response)
            if watches.disorder is not None:
                lines = _disordered(lines, Random(f"{watches.disorder}{call.path}"))
            if watches.delay:
                lines = _delayed(lines, watches.delay)
            while self.watches is watches and (line := next(lines, b"")):
                _chunk(handler, line)
            if self.watches.silent:
                self._spoil(handler, call, self.watches, begun=True)
            else:
                _chunk(handler, b"")
        finally:
            self._open.discard(connection)
            connection.close()

    def _spoil(self, handler: Any, call: Call, watches: Watches, *, begun: bool) -> None:
        if watches.expired_when_opened:
            _answer(handler, call, 410)
        else:
            call.status = 200
            if not begun:
                _begin_watch(handler)
            if watches.silent:
                self._say_nothing(handler)
            elif watches.error is not None:
                _chunk(handler, json.dumps({"type": "ERROR", "object": _status(watches.error)}).encode() + b"\n")
            if not watches.silent:
                _chunk(handler, b"")
        with self._lock:
            self.injected += 1
            self.spoiled[call.path] += 1
            healed = self._healed()
        if healed:
            self._healed = lambda: False
            self.set_watches(Watches())

    def _say_nothing(self, handler: Any) -> None:
        """Until the operator closes the connection, or watches are to be served otherwise."""
        sock = handler.connection
        handler.close_connection = True
        self._silent.add(sock)
        try:
            while sock.recv(1 << 12):
                pass
        finally:
            self._silent.discard(sock)


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def handle_error(self, request: Any, client_address: Any) -> None:
        pass  # operators are killed here: broken connections are the point


def _lines(response: http.client.HTTPResponse) -> Iterator[bytes]:
    try:
        while line := response.readline():
            yield line
    except (OSError, http.client.HTTPException, AttributeError, ValueError):
        pass  # `set_watches` broke it


def _disordered(before: Iterator[bytes], random: Random) -> Iterator[bytes]:
    """Two events change places if they are of different objects and come one after the other, and some come twice, as
    where a watch goes on from a little earlier at another API server.

    Those that changed places come in one piece: a watch that ended between them would lose one for good, which no API
    server does.
    """
    lines, over = _pumped(before), False
    while not over and (held := lines.get()[1]):
        piece = held
        if random.random() < 0.7:
            try:
                following = lines.get(timeout=0.3)[1]
                over = not following
                one, other = _object(held), _object(following)
                piece = following + held if one and other and one != other else held + following
            except queue.Empty:
                pass  # nothing comes soon
        yield piece
        if random.random() < 0.3:
            yield piece


def _object(line: bytes) -> str:
    """The uid of whose event it is; "" of a bookmark, which is about everything before it."""
    return str(json.loads(line)["object"]["metadata"].get("uid", "")) if line else ""


def _delayed(before: Iterator[bytes], delay: float) -> Iterator[bytes]:
    lines = _pumped(before)
    while True:
        came, line = lines.get()
        if not line:
            return
        time.sleep(max(0.0, came + delay - time.monotonic()))
        yield line


def _pumped(before: Iterator[bytes]) -> "queue.Queue[tuple[float, bytes]]":
    """Each line with the time when it came; an empty one is the end."""
    lines: queue.Queue[tuple[float, bytes]] = queue.Queue()

    def read() -> None:
        for line in before:
            lines.put((time.monotonic(), line))
        lines.put((0.0, b""))

    threading.Thread(target=read, daemon=True).start()
    return lines


_REASONS = {409: "Conflict", 410: "Expired", 422: "Invalid", 429: "TooManyRequests", 503: "ServiceUnavailable"}


def _status(code: int) -> dict[str, Any]:
    reason = _REASONS.get(code, "InternalError")
    return {
        "kind": "Status",
        "apiVersion": "v1",
        "status": "Failure",
        "code": code,
        "reason": reason,
        "message": "a fault",
    }


def _answer(handler: Any, call: Call, status: int, retry_after: int | None = None) -> None:
    call.status = status
    body = json.dumps(_status(status)).encode()
    handler.send_response(status)
    handler.send_header("Content-Type", "application/json")
    handler.send_header("Content-Length", str(len(body)))
    if retry_after is not None:
        handler.send_header("Retry-After", str(retry_after))
    handler.end_headers()
    handler.wfile.write(body)
    handler.wfile.flush()


def _break(handler: Any) -> None:
    handler.close_connection = True
    handler.connection.shutdown(socket.SHUT_RDWR)


def _shut(sock: socket.socket) -> None:
    try:
        sock.shutdown(socket.SHUT_RDWR)
    except OSError:
        pass  # its other end was quicker


def _begin_watch(handler: Any) -> None:
    handler.send_response(200)
    handler.send_header("Transfer-Encoding", "chunked")
    handler.end_headers()
    handler.wfile.flush()


def _chunk(handler: Any, data: bytes) -> None:
    handler.wfile.write(f"{len(data):x}\r\n".encode() + data + b"\r\n")
    handler.wfile.flush()
