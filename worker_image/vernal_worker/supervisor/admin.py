"""The admin port: probes, state, metrics, drain. Runs on its own threads, so that it answers during freeze
and thaw.

Whoever reaches the pod reaches it. So it reads no body, keeps few connections, bounds what a request may cost, and lets
only those who know the token change something.
"""

import contextlib
import hmac
import io
import ipaddress
import json
import logging  # noqa: F401  # for `threads`, whose failures come when no file can be opened any more
import socket
import sys
import threading
import time
import traceback
from dataclasses import dataclass
from http import HTTPStatus
from http.client import HTTPException
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Protocol
from urllib.parse import parse_qs

from vernal_contract import names
from vernal_contract import state as contract

from vernal_worker.supervisor import log

MAX_CONNECTIONS = 64
"""With one more, the oldest that is not being answered is closed: a request comes in milliseconds, so whoever is there
long only holds it."""

MOST_WAITING = 16
"""Answers that are kept back at a time; whoever else asks for that is answered at once."""

HEADER_BYTES = 16 << 10
"""Of a request's first line and fields."""

REQUEST_SECONDS = 10.0
"""From a request's first byte to its last."""

_IDLE_SECONDS = 30.0
"""Between two requests."""

_ANSWER_SECONDS = 5.0
"""For a client to take an answer: meanwhile its connection is nobody else's."""

MOST_WAIT_SECONDS = 5.0
"""That an answer is kept back: each holds a thread and a connection."""

_DISCARDED_BYTES = 64 << 10
"""Of a body that nobody asked for: taken so that its sender reads our answer and not a reset."""


class Source(Protocol):
    """What the admin port shows. Called from its threads."""

    def live(self) -> str | None:
        """None, or why the container should be restarted."""

    def ready(self) -> str | None:
        """None, or why no requests should come."""

    def started(self, wait: float = 0.0) -> str | None:
        """None, or what the start is still doing. Waits until it is over, `wait` seconds at most."""

    def state(self) -> contract.WorkerState: ...

    def metrics(self) -> str:
        """Prometheus text format 0.0.4."""

    def drain(self) -> str | None:
        """Begin to drain; None, or why that is not possible now."""


@dataclass(frozen=True)
class _Reply:
    status: HTTPStatus
    body: bytes
    content_type: str = "application/json"


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, listener: socket.socket, source: Source, token: str | None) -> None:
        super().__init__(("", 0), _Handler, bind_and_activate=False)
        self.socket.close()
        self.socket = listener
        self.source, self.token = source, token
        self._lock = threading.Lock()
        self._connections: dict[socket.socket, bool] = {}  # the oldest first; whether it is being answered
        self.waiting = threading.BoundedSemaphore(MOST_WAITING)

    def get_request(self) -> tuple[socket.socket, Any]:
        try:
            return super().get_request()
        except OSError:
            time.sleep(0.05)  # no descriptors, for instance: it is asked again at once
            raise

    def process_request(self, request: Any, client_address: Any) -> None:
        with self._lock:
            room = len(self._connections) < MAX_CONNECTIONS
            if not room and (oldest := next((each for each, busy in self._connections.items() if not busy), None)):
                del self._connections[oldest]
                room = True
                with contextlib.suppress(OSError):  # it is closed
                    oldest.shutdown(socket.SHUT_RDWR)  # its thread sees the end and closes it
            if room:
                self._connections[request] = False
        if room:
            super().process_request(request, client_address)
            return
        with contextlib.suppress(OSError):
            request.setblocking(False)
            request.send(_ALL_BUSY)
        self.shutdown_request(request)

    def answering(self, request: socket.socket, busy: bool) -> None:
        """Say whether a connection is being answered."""
        with self._lock:
            if request in self._connections:
                self._connections[request] = busy

    def shutdown_request(self, request: Any) -> None:
        with self._lock:
            self._connections.pop(request, None)
        super().shutdown_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        if isinstance(sys.exception(), ConnectionError):
            return  # it went away while it was answered: whoever reaches the port could fill the log with that
        log.failure("admin_request_failed", client=client_address[0], traceback=traceback.format_exc())


class _Reader(io.RawIOBase):
    """What a client sends, so many bytes and for so long from one request to the next."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._left = 0
        self._deadline: float | None = None  # None: the request has not begun

    def begin(self) -> None:
        """A request may come."""
        self._left, self._deadline = HEADER_BYTES, None

    def allow(self, count: int) -> None:
        """A body follows."""
        self._left = count

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        """Raises: TimeoutError; HTTPException: it is too large."""
        if self._left <= 0:
            raise HTTPException(f"more than {HEADER_BYTES} bytes")
        seconds = _IDLE_SECONDS if self._deadline is None else self._deadline - time.monotonic()
        if seconds <= 0:
            raise TimeoutError("the request did not end")
        self._connection.settimeout(seconds)
        try:
            count = self._connection.recv_into(memoryview(buffer)[: self._left])
        finally:
            self._connection.settimeout(_ANSWER_SECONDS)
        if self._deadline is None:
            self._deadline = time.monotonic() + REQUEST_SECONDS
        self._left -= count
        return count


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    timeout = _ANSWER_SECONDS  # of writing: `_Reader` has its own for what it reads
    server: _Server

    def setup(self) -> None:
        super().setup()
        self.rfile.close()
        self._reader = _Reader(self.connection)
        self.rfile = io.BufferedReader(self._reader)

    def handle_one_request(self) -> None:
        self._reader.begin()
        try:
            super().handle_one_request()
        except HTTPException as error:  # of its first line: the fields' are answered there
            self.requestline, self.request_version, self.command = "", "", ""
            self.close_connection = True
            self.send_error(HTTPStatus.REQUEST_URI_TOO_LONG, explain=str(error))
        finally:
            self.server.answering(self.connection, False)

    def do_GET(self) -> None:
        self.server.answering(self.connection, True)
        source = self.server.source
        match self.path.partition("?")[0]:
            case "/livez":
                self._send(_probe(source.live()))
            case "/readyz":
                self._send(_probe(source.ready()))
            case "/startupz":
                self._send(_probe(self._started()))
            case "/state":
                self._send(_Reply(HTTPStatus.OK, contract.encode(source.state())))
            case "/metrics":
                text = "text/plain; version=0.0.4; charset=utf-8"
                self._send(_Reply(HTTPStatus.OK, source.metrics().encode(), text))
            case "/drain":
                self._send(_message(HTTPStatus.METHOD_NOT_ALLOWED, "use POST"))
            case _:
                paths = "/livez /readyz /startupz /state /metrics and POST /drain"
                self._send(_message(HTTPStatus.NOT_FOUND, f"here are {paths}"))

    def _started(self) -> str | None:
        wait = self._wait()
        if wait == 0 or not self.server.waiting.acquire(blocking=False):
            return self.server.source.started(0.0)
        try:
            return self.server.source.started(wait)
        finally:
            self.server.waiting.release()

    def _wait(self) -> float:
        """Of `?wait=SECONDS`: a probe that waits learns of the end of the start when it comes, not at its next try."""
        try:
            asked = float(parse_qs(self.path.partition("?")[2]).get("wait", ["0"])[0])
        except ValueError:
            return 0.0
        return min(max(0.0, asked), MOST_WAIT_SECONDS)  # 0 of what is no number

    def do_POST(self) -> None:
        problem = self._discard_body()
        self.server.answering(self.connection, True)
        if problem is not None:
            self._send(problem)
        elif self.path.partition("?")[0] != "/drain":
            self._send(_message(HTTPStatus.NOT_FOUND, "only /drain takes POST"))
        elif (problem := self._unauthorized()) is not None:
            self._send(problem)
        elif (refusal := self.server.source.drain()) is not None:
            self._send(_message(HTTPStatus.CONFLICT, refusal))
        else:
            self._send(_Reply(HTTPStatus.ACCEPTED, contract.encode(self.server.source.state())))

    def _discard_body(self) -> _Reply | None:
        """None, or what is wrong with the body. Nothing here needs one."""
        length = self.headers.get("Content-Length", "0")
        if "Transfer-Encoding" in self.headers:
            self.close_connection = True
            return _message(HTTPStatus.LENGTH_REQUIRED, "say the body's length, or send none: none is needed")
        if not (length.isascii() and length.isdigit()):
            self.close_connection = True
            return _message(HTTPStatus.BAD_REQUEST, f"Content-Length: {length[:32]!r} is not a number of bytes")
        if len(length) > 9 or int(length) > _DISCARDED_BYTES:
            self.close_connection = True
            return _message(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"{_DISCARDED_BYTES} bytes at most: none is needed")
        self._reader.allow(int(length))
        self.rfile.read(int(length))
        return None

    def _unauthorized(self) -> _Reply | None:
        """None, or why this client may not change anything."""
        if (token := self.server.token) is None:
            if _is_local(self.client_address[0]):
                return None
            why = f"without {names.ENV_ADMIN_TOKEN} in the worker's environment only from inside the pod"
            return _message(HTTPStatus.FORBIDDEN, f"{why} (kubectl exec, kubectl port-forward)")
        scheme, _, given = self.headers.get("Authorization", "").partition(" ")
        if scheme.lower() == "bearer" and hmac.compare_digest(given.strip().encode(), token.encode()):
            return None
        return _message(HTTPStatus.UNAUTHORIZED, f"Authorization: Bearer, and the value of {names.ENV_ADMIN_TOKEN}")

    def _send(self, reply: _Reply) -> None:
        self.send_response(reply.status)
        self.send_header("Content-Type", reply.content_type)
        self.send_header("Content-Length", str(len(reply.body)))
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(reply.body)

    def log_message(self, format: str, *args: Any) -> None:
        """Probes come every second or so: they are not worth a line."""


def _is_local(address: str) -> bool:
    found = ipaddress.ip_address(address.partition("%")[0])
    return found.is_loopback or (found.version == 6 and found.ipv4_mapped is not None and found.ipv4_mapped.is_loopback)


def _probe(problem: str | None) -> _Reply:
    if problem is None:
        return _message(HTTPStatus.OK, "ok")
    return _message(HTTPStatus.SERVICE_UNAVAILABLE, problem)


def _message(status: HTTPStatus, text: str) -> _Reply:
    return _Reply(status, json.dumps({"message": text}).encode())


_busy = _message(HTTPStatus.SERVICE_UNAVAILABLE, f"all {MAX_CONNECTIONS} connections are being answered").body
_ALL_BUSY = (
    f"HTTP/1.1 503 Service Unavailable\r\nContent-Type: application/json\r\nContent-Length: {len(_busy)}\r\n"
    "Connection: close\r\n\r\n"
).encode() + _busy


def serve(listener: socket.socket, source: Source, token: str | None = None) -> None:
    """Answer on `listener` for as long as the process lives. Blocks: run it on a thread of its own.

    Args:
        token: what `POST /drain` must bring; with None it is taken from the pod's own loopback only.
    """
    _Server(listener, source, token).serve_forever(poll_interval=60)
