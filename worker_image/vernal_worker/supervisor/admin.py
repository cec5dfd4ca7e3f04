"""The admin port: probes, state, metrics, drain. Runs on its own threads, so that it answers during freeze
and thaw."""

import json
import socket
from dataclasses import dataclass
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Protocol

from vernal_contract import state as contract


class Source(Protocol):
    """What the admin port shows. Called from its threads."""

    def live(self) -> str | None:
        """None, or why the container should be restarted."""

    def ready(self) -> str | None:
        """None, or why no requests should come."""

    def started(self) -> str | None:
        """None, or what the start is still doing."""

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

    def __init__(self, listener: socket.socket, source: Source) -> None:
        super().__init__(("", 0), _Handler, bind_and_activate=False)
        self.socket.close()
        self.socket = listener
        self.source = source


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    timeout = 30
    server: _Server

    def do_GET(self) -> None:
        source = self.server.source
        match self.path.partition("?")[0]:
            case "/livez":
                self._send(_probe(source.live()))
            case "/readyz":
                self._send(_probe(source.ready()))
            case "/startupz":
                self._send(_probe(source.started()))
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

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if self.path.partition("?")[0] != "/drain":
            self._send(_message(HTTPStatus.NOT_FOUND, "only /drain takes POST"))
        elif (refusal := self.server.source.drain()) is not None:
            self._send(_message(HTTPStatus.CONFLICT, refusal))
        else:
            self._send(_Reply(HTTPStatus.ACCEPTED, contract.encode(self.server.source.state())))

    def _send(self, reply: _Reply) -> None:
        self.send_response(reply.status)
        self.send_header("Content-Type", reply.content_type)
        self.send_header("Content-Length", str(len(reply.body)))
        self.end_headers()
        self.wfile.write(reply.body)

    def log_message(self, format: str, *args: Any) -> None:
        """Probes come every second or so: they are not worth a line."""


def _probe(problem: str | None) -> _Reply:
    if problem is None:
        return _message(HTTPStatus.OK, "ok")
    return _message(HTTPStatus.SERVICE_UNAVAILABLE, problem)


def _message(status: HTTPStatus, text: str) -> _Reply:
    return _Reply(status, json.dumps({"message": text}).encode())


def serve(listener: socket.socket, source: Source) -> None:
    """Answer on `listener` for as long as the process lives. Blocks: run it on a thread of its own."""
    _Server(listener, source).serve_forever(poll_interval=60)
