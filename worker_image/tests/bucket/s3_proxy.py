"""An HTTP proxy before an S3 server that does what networks and servers do wrong."""

import http.client
import http.server
import threading
from collections.abc import Callable
from dataclasses import dataclass

from common.loopback import LoopbackServer
from patience import GUARD_SECONDS


@dataclass(frozen=True)
class Call:
    """`number`: which one of this method on this path, from 0 on."""

    method: str
    path: str
    number: int


@dataclass(frozen=True)
class Status:
    """This answer instead; the server hears nothing."""

    code: int
    s3_code: str


@dataclass(frozen=True)
class Lost:
    """The server does it, and the answer never comes."""


@dataclass(frozen=True)
class Cut:
    """Half of the body, then the connection ends."""


@dataclass(frozen=True)
class Flipped:
    """One bit of the body is another."""


@dataclass(frozen=True)
class Silent:
    """Nothing, until `S3Proxy.released` is set."""


Fault = Status | Lost | Cut | Flipped | Silent
Choose = Callable[[Call], Fault | None]


class S3Proxy(LoopbackServer):
    """Use as a context manager. `choose` says what happens to a call."""

    def __init__(self, port: int, choose: Choose) -> None:
        self._port, self._choose = port, choose
        self._lock = threading.Lock()
        self.calls: list[Call] = []
        self.met: list[tuple[Call, Fault]] = []
        self.released = threading.Event()
        super().__init__(self._handler(), "s3-proxy")

    def __exit__(self, *error: object) -> None:
        self.released.set()
        super().__exit__(*error)

    def note(self, method: str, path: str) -> tuple[Call, Fault | None]:
        with self._lock:
            number = sum((call.method, call.path) == (method, path) for call in self.calls)
            call = Call(method, path, number)
            self.calls.append(call)
            fault = self._choose(call)
            if fault is not None:
                self.met.append((call, fault))
            return call, fault

    def forward(self, method: str, path: str, headers: list[tuple[str, str]], body: bytes) -> "_Answer":
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=GUARD_SECONDS)
        try:
            connection.putrequest(method, path, skip_host=True, skip_accept_encoding=True)
            for name, value in headers:  # Host too: it is signed
                connection.putheader(name, value)
            connection.endheaders(body)
            answer = connection.getresponse()
            return _Answer(answer.status, answer.getheaders(), answer.read())
        finally:
            connection.close()

    def _handler(self) -> type[http.server.BaseHTTPRequestHandler]:
        proxy = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def _serve(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                _, fault = proxy.note(self.command, self.path)
                if isinstance(fault, Silent):
                    proxy.released.wait(GUARD_SECONDS)
                    self.close_connection = True
                    return
                if isinstance(fault, Status):
                    text = f"<Error><Code>{fault.s3_code}</Code><Message>injected</Message></Error>".encode()
                    self._answer(_Answer(fault.code, [("Content-Type", "application/xml")], text), text)
                    return
                answer = proxy.forward(self.command, self.path, self.headers.items(), body)
                if isinstance(fault, Lost):
                    self.close_connection = True
                    return
                text = answer.body
                if isinstance(fault, Flipped) and text:
                    text = text[:-1] + bytes([text[-1] ^ 1])
                if isinstance(fault, Cut):
                    text = text[: len(text) // 2]
                    self.close_connection = True
                self._answer(answer, text)

            def _answer(self, answer: "_Answer", text: bytes) -> None:
                self.send_response(answer.status)
                for name, value in answer.headers:
                    if name.lower() not in ("content-length", "transfer-encoding", "connection", "date", "server"):
                        self.send_header(name, value)
                length = {name.lower(): value for name, value in answer.headers}.get("content-length")
                self.send_header("Content-Length", length or str(len(answer.body)))
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(text)

            do_GET = do_PUT = do_HEAD = do_POST = do_DELETE = _serve  # noqa: N815

            def log_message(self, *_: object) -> None:
                pass

        return Handler


@dataclass(frozen=True)
class _Answer:
    status: int
    headers: list[tuple[str, str]]
    body: bytes
