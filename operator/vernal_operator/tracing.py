"""Starts as traces, where the environment says where to send them. OpenTelemetry is an extra (`vernal[tracing]`), and
is imported only then.

The variables are OpenTelemetry's own: OTEL_EXPORTER_OTLP_ENDPOINT (or OTEL_EXPORTER_OTLP_TRACES_ENDPOINT) turns it on,
OTEL_EXPORTER_OTLP_HEADERS, OTEL_TRACES_SAMPLER and the rest say how.
"""

import logging
import os
from collections.abc import Mapping
from typing import Protocol

from vernal_operator.spans import Count, Span

log = logging.getLogger(__name__)


class Opened(Protocol):
    """The first span of what goes on here, from its begin on."""

    @property
    def context(self) -> Mapping[str, str]:
        """Headers of W3C Trace Context by which others go on with it."""

    def close(self, span: Span) -> None:
        """It is over: `span` says what it was, but for its name and its begin. What is not closed is not sent."""


class Tracer(Protocol):
    """Thread-safe. No method waits for the collector, or raises anything."""

    def open(self, name: str, begin: float, headers: Mapping[str, str]) -> Opened:
        """Begin a span of a server, at `begin` seconds since the epoch: with `headers` (names in lower case) it goes on
        with the client's trace.
        """

    def tell(self, span: Span, parent: str) -> None:
        """Send a span that is over. `parent`: the `traceparent` that it goes on with; "": it is a trace of its own."""

    def close(self) -> None:
        """Send what waits, if that takes no more than a moment."""


def set_up(service: str, count: Count) -> Tracer | None:
    """The tracer that the environment asks for; None if it asks for none, or cannot have one, which is logged."""
    names = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
    endpoint = next((found for name in names if (found := os.environ.get(name))), None)
    if endpoint is None:
        return None
    try:
        from vernal_operator.otel import OtelTracer

        made = OtelTracer(service, endpoint, count)
    except ImportError as error:
        log.error(
            "starts are not traced: %s; install the extra vernal[tracing], or unset OTEL_EXPORTER_OTLP_ENDPOINT", error
        )
        return None
    except Exception as error:  # whatever a variable of the environment holds, pools are looked after
        log.error("starts are not traced: %s: %s; correct the variables OTEL_*", type(error).__name__, error)
        return None
    log.info("starts are traced")
    return made
