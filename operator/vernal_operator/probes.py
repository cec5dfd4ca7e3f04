"""HTTP for the kubelet and Prometheus: /metrics, and /readyz once everything was listed, or another operator leads."""

import threading
from collections.abc import Callable
from http.server import ThreadingHTTPServer

from prometheus_client.exposition import MetricsHandler


def serve(host: str, port: int, ready: Callable[[], bool]) -> ThreadingHTTPServer:
    """Serve in a thread of its own until `shutdown` is called on the result. Raises OSError if the port is
    taken.
    """

    class Handler(MetricsHandler):
        timeout = 10

        def do_GET(self) -> None:  # noqa: N802
            if self.path == "/metrics":
                super().do_GET()
                return
            status, text = 404, b"not found: /metrics and /readyz are here\n"
            if self.path == "/readyz":
                status, text = (200, b"ok\n") if ready() else (503, b"still listing\n")
            self.send_response(status)
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text)

    server = ThreadingHTTPServer((host, port), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, name="probes", daemon=True).start()
    return server
