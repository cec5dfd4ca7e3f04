"""A collector of OpenTelemetry: OTLP over HTTP, protobuf, on loopback. What it is sent, it keeps."""

import gzip
import threading
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from patience import GUARD_SECONDS


@dataclass(frozen=True)
class Received:
    """A span. Ids are hex, that of the parent is "" of a root; times are nanoseconds since the epoch."""

    service: str
    name: str
    trace: str
    id: str
    parent: str
    kind: int
    begin: int
    end: int
    attributes: dict[str, str]

    @property
    def seconds(self) -> float:
        return (self.end - self.begin) / 1e9


class Collector:
    """Use as a context manager. `status`: what requests are answered with; they wait while `go` is not set."""

    def __init__(self) -> None:
        self.status = 200
        self.go = threading.Event()
        self.go.set()
        self.requests: list[dict[str, str]] = []  # their headers
        self._spans: list[Received] = []
        self._problems: list[BaseException] = []
        self._lock = threading.Lock()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                outer._take(self)

            def log_message(self, format: str, *args: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever, name="collector", daemon=True)

    def __enter__(self) -> "Collector":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.go.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(GUARD_SECONDS)

    @property
    def spans(self) -> list[Received]:
        """All of them, by their begin and end. Raises what a request was wrong in."""
        with self._lock:
            assert not self._problems, self._problems
            return sorted(self._spans, key=lambda span: (span.begin, span.end))

    def environment(self) -> dict[str, str]:
        """What a process sends its spans here with, at once and whatever a client's own sampler said."""
        return {
            "OTEL_EXPORTER_OTLP_ENDPOINT": self.url,
            "OTEL_TRACES_SAMPLER": "always_on",
            "OTEL_BSP_SCHEDULE_DELAY": "50",
            "OTEL_EXPORTER_OTLP_TIMEOUT": str(GUARD_SECONDS),  # seconds: what is late is neither lost nor sent twice
        }

    def _take(self, handler: BaseHTTPRequestHandler) -> None:
        data = handler.rfile.read(int(handler.headers["Content-Length"]))
        with self._lock:
            self.requests.append({name.lower(): value for name, value in handler.headers.items()})
        self.go.wait(GUARD_SECONDS)
        try:
            if self.status == 200:
                self._keep(handler, data)
        except Exception as error:
            with self._lock:
                self._problems.append(error)
            raise
        answer = ExportTraceServiceResponse().SerializeToString()
        handler.send_response(self.status)
        handler.send_header("Content-Type", "application/x-protobuf")
        handler.send_header("Content-Length", str(len(answer)))
        handler.end_headers()
        handler.wfile.write(answer)

    def _keep(self, handler: BaseHTTPRequestHandler, data: bytes) -> None:
        assert handler.path == "/v1/traces", handler.path
        assert handler.headers["Content-Type"] == "application/x-protobuf"
        if handler.headers.get("Content-Encoding") == "gzip":
            data = gzip.decompress(data)
        request = ExportTraceServiceRequest.FromString(data)
        with self._lock:
            for resource in request.resource_spans:
                service = _strings(resource.resource.attributes)["service.name"]
                for scope in resource.scope_spans:
                    self._spans += [_received(service, span) for span in scope.spans]


def _received(service: str, span: Any) -> Received:
    return Received(
        service, span.name, span.trace_id.hex(), span.span_id.hex(), span.parent_span_id.hex(), span.kind,
        span.start_time_unix_nano, span.end_time_unix_nano, _strings(span.attributes),
    )  # fmt: skip


def _strings(attributes: Any) -> dict[str, str]:
    return {one.key: one.value.string_value for one in attributes}
