"""What an API server proxies to for the plugin: the admin ports of pods, and the part of a kubelet that has logs."""

import http.server
import re
import socket
import ssl
import threading
from collections.abc import Callable
from pathlib import Path

import pytest


class _Quiet(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        pass

    def reply(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


def admin_ports(address: str, port: int, answers: Callable[[str], bytes | None]) -> http.server.ThreadingHTTPServer:
    """The admin ports of all pods on one address. The API server, which proxies to no loopback address, says in a
    header which pod it was asked for.
    """

    class Handler(_Quiet):
        def do_GET(self) -> None:
            pod = re.search(r"/pods/([^/:]+):", self.headers.get("X-Forwarded-Uri", ""))
            body = answers(pod[1]) if pod and self.path == "/state" else None
            self.reply(200, body) if body else self.reply(404, b"")

    return _serve(http.server.ThreadingHTTPServer((address, port), Handler))


def kubelet(pki: Path, logs: dict[str, str]) -> http.server.ThreadingHTTPServer:
    """The part of a kubelet that `kubectl logs` reaches."""

    class Handler(_Quiet):
        def do_GET(self) -> None:
            _, verb, _, pod, *_ = self.path.split("/")
            assert verb == "containerLogs", self.path
            self.reply(200, logs.get(pod, "event=phase phase=Ready\n").encode())

    found = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(pki / "kubelet.crt", pki / "kubelet.key")
    found.socket = tls.wrap_socket(found.socket, server_side=True)
    return _serve(found)


def _serve(server: http.server.ThreadingHTTPServer) -> http.server.ThreadingHTTPServer:
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server


def own_address() -> str:
    """An address of this machine that is no loopback address; nothing is sent."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))
        except OSError:
            pytest.skip("this machine has no address but loopback, to which an API server proxies nothing")
        return str(probe.getsockname()[0])
