"""The tracer of OpenTelemetry's SDK, with OTLP over HTTP. Imported by `tracing` alone, and only where it is asked for.

Spans wait in a queue of `QUEUE` at most, for a thread of the SDK's that sends them: whoever ends a span waits for
nobody, and where the collector is down what does not fit is dropped. The SDK logs each failure; here the first one is
told, and that it is over.
"""

import logging
import socket
import threading
from collections import deque
from collections.abc import Mapping, Sequence
from urllib.parse import urlsplit

from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, SpanLimits, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.trace import Span as OtelSpan
from opentelemetry.trace import SpanKind, set_span_in_context
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from vernal_operator.spans import TRACEPARENT, Count, Span

log = logging.getLogger(__name__)

QUEUE = 2048
"""Spans: those of a hundred starts."""
_ATTRIBUTE_CHARACTERS = 256
"""Some are workers' words."""
_LAST_SECONDS = 2.0

_PROPAGATOR = TraceContextTextMapPropagator()


class OtelTracer:
    """See `tracing.Tracer`."""

    def __init__(self, service: str, endpoint: str, count: Count) -> None:
        """Raises ValueError and the like for what the variables OTEL_* hold."""
        sender = _Sender(endpoint, count)
        self._provider = TracerProvider(
            resource=Resource.create(
                {
                    "service.name": service,
                    "service.instance.id": socket.gethostname(),  # the pod's name
                }
            ),
            span_limits=SpanLimits(max_span_attribute_length=_ATTRIBUTE_CHARACTERS),
            shutdown_on_exit=False,  # which may take half a minute
        )
        self._provider.add_span_processor(_Queue(sender))
        self._tracer = self._provider.get_tracer("vernal")
        sender.listen()  # what the SDK has said until here was of the variables

    def open(self, name: str, begin: float, headers: Mapping[str, str]) -> "_Opened":
        context = _PROPAGATOR.extract(dict(headers), Context())
        span = self._tracer.start_span(name, context, SpanKind.SERVER, start_time=_nanoseconds(begin))
        return _Opened(self, span)

    def tell(self, span: Span, parent: str) -> None:
        self.below(span, _PROPAGATOR.extract({TRACEPARENT: parent}, Context()), {})

    def below(self, span: Span, parent: Context, inherited: Mapping[str, str]) -> None:
        """Send a span and its children as children of the one in the context `parent`."""
        attributes = {**inherited, **span.attributes}
        made = self._tracer.start_span(span.name, parent, attributes=attributes, start_time=_nanoseconds(span.begin))
        for child in span.children:
            self.below(child, set_span_in_context(made, Context()), attributes)
        made.end(_nanoseconds(span.end))

    def close(self) -> None:
        thread = threading.Thread(target=self._provider.shutdown, name="tracing", daemon=True)
        thread.start()
        thread.join(_LAST_SECONDS)


class _Opened:
    def __init__(self, tracer: OtelTracer, span: OtelSpan) -> None:
        self._tracer, self._span = tracer, span
        self.context: dict[str, str] = {}
        _PROPAGATOR.inject(self.context, set_span_in_context(span, Context()))

    def close(self, span: Span) -> None:
        self._span.set_attributes(span.attributes)
        for child in span.children:
            self._tracer.below(child, set_span_in_context(self._span, Context()), span.attributes)
        self._span.end(_nanoseconds(span.end))


def _nanoseconds(seconds: float) -> int:
    return round(seconds * 1e9)


class _Sender(SpanExporter):
    """The exporter, and how many wait for it."""

    def __init__(self, endpoint: str, count: Count) -> None:
        url = urlsplit(endpoint)
        self._endpoint = url._replace(netloc=url.netloc.rpartition("@")[2]).geturl()
        self.count = count
        self._exporter = OTLPSpanExporter()
        self._failing = False
        self._lock = threading.Lock()
        self._waiting = 0
        self._said = _LastWords()

    def listen(self) -> None:
        """From now on the SDK's words are in no log but in ours."""
        theirs = logging.getLogger("opentelemetry")
        theirs.propagate = False
        theirs.addHandler(self._said)

    def takes_one(self) -> bool:
        """Whether there is room for one more to wait; it waits from now on."""
        with self._lock:
            if self._waiting >= QUEUE:
                return False
            self._waiting += 1
            return True

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """In the SDK's thread."""
        try:
            result = self._exporter.export(spans)
        except Exception as error:
            log.debug("spans cannot be sent", exc_info=error)
            result = SpanExportResult.FAILURE
        with self._lock:
            self._waiting -= len(spans)
        failed = result is not SpanExportResult.SUCCESS
        self.count("failed" if failed else "sent", len(spans))
        if failed and not self._failing:
            log.warning(
                "spans cannot be sent to %s (%s): starts are not traced until they can; look at the collector, or "
                "correct tracing.endpoint of the chart (OTEL_EXPORTER_OTLP_ENDPOINT)", self._endpoint, self._said.text,
            )  # fmt: skip
        elif self._failing and not failed:
            log.info("spans are sent to %s again", self._endpoint)
        self._failing = failed
        return result

    def shutdown(self) -> None:
        self._exporter.shutdown()  # type: ignore[no-untyped-call]


class _Queue(BatchSpanProcessor):
    """The SDK's queue, which counts what it has no room for."""

    def __init__(self, sender: _Sender) -> None:
        super().__init__(sender, max_queue_size=QUEUE)
        self._sender = sender

    def on_end(self, span: ReadableSpan) -> None:
        if span.context is None or not span.context.trace_flags.sampled:
            return
        if self._sender.takes_one():
            super().on_end(span)
        else:
            self._sender.count("dropped", 1)


class _LastWords(logging.Handler):
    """Keeps what the SDK said last, instead of a line for each try."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self._last: deque[str] = deque(maxlen=2)

    def emit(self, record: logging.LogRecord) -> None:
        self._last.append(record.getMessage().strip())

    @property
    def text(self) -> str:
        return "; ".join(self._last)[:1000] or "no reason given"
