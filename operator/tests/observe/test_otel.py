"""Spans, as a real collector receives them, and what becomes of them where there is none."""

import logging
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator

import pytest
from controlplane.collector import Collector, Received
from patience import GUARD_SECONDS, until
from vernal_operator import tracing
from vernal_operator.otel import QUEUE
from vernal_operator.spans import Span
from vernal_operator.tracing import Tracer

NOW = 1_800_000_000.0
CLIENT = {"traceparent": f"00-{'a' * 32}-{'b' * 16}-01", "tracestate": "vendor=1"}
START = Span(
    "start", NOW, NOW + 3, {"vernal.pool.name": "p"},
    (Span("schedule", NOW, NOW + 1), Span("worker", NOW + 1, NOW + 3, {}, (Span("worker/criu", NOW + 1.5, NOW + 2),))),
)  # fmt: skip


class Counts:
    """What a tracer counted."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.found = Counter[str]()

    def __call__(self, result: str, spans: int) -> None:
        with self._lock:
            self.found[result] += spans


@pytest.fixture
def collector(monkeypatch: pytest.MonkeyPatch) -> Iterator[Collector]:
    with Collector() as made:
        for name, value in made.environment().items():
            monkeypatch.setenv(name, value)
        yield made


@pytest.fixture
def counts() -> Counts:
    return Counts()


@pytest.fixture
def tracer(collector: Collector, counts: Counts) -> Iterator[Tracer]:
    made = tracing.set_up("vernal-test", counts)
    assert made is not None
    yield made
    collector.go.set()
    made.close()


def arrived(collector: Collector, number: int) -> dict[str, Received]:
    until(f"{number} spans", lambda: len(collector.spans) >= number)
    assert len(collector.spans) == number
    return {span.name: span for span in collector.spans}


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [
        r.getMessage() for r in caplog.records if r.name.startswith("vernal") and r.levelname in ("WARNING", "ERROR")
    ]


def test_nothing_is_imported_unless_it_is_asked_for(monkeypatch: pytest.MonkeyPatch, counts: Counts) -> None:
    for name in ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"):
        monkeypatch.delenv(name, raising=False)
    assert tracing.set_up("vernal-test", counts) is None
    program = (
        "import sys; sys.path[:0] = %r\n"
        "import vernal_operator.main, vernal_waker.main\n"
        "assert vernal_operator.main.tracing.set_up('x', print) is None\n"
        "print([m for m in sys.modules if m.startswith(('opentelemetry', 'google.protobuf'))])"
    )
    done = subprocess.run(
        [sys.executable, "-c", program % [p for p in sys.path if p]], capture_output=True, text=True, check=False
    )
    assert (done.stdout, done.returncode) == ("[]\n", 0), done.stderr


def test_spans_arrive_as_they_are(
    collector: Collector, monkeypatch: pytest.MonkeyPatch, counts: Counts, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_HEADERS", "authorization=Bearer%20secret")
    tracer = tracing.set_up("vernal-test", counts)
    assert tracer is not None
    tracer.tell(START, "")
    found = arrived(collector, 4)
    assert {span.trace for span in found.values()} == {found["start"].trace}
    parents = {"start": "", "schedule": "start", "worker": "start", "worker/criu": "worker"}
    assert {n: s.parent for n, s in found.items()} == {n: found[p].id if p else "" for n, p in parents.items()}
    times = {n: (s.begin / 1e9 - NOW, s.end / 1e9 - NOW) for n, s in found.items()}
    assert times == {"start": (0, 3), "schedule": (0, 1), "worker": (1, 3), "worker/criu": (1.5, 2)}
    assert all(span.attributes == {"vernal.pool.name": "p"} for span in found.values())
    assert {span.service for span in found.values()} == {"vernal-test"}
    assert collector.requests[0]["authorization"] == "Bearer secret"
    tracer.close()
    until("them to be counted", lambda: counts.found == {"sent": 4})
    assert not warnings(caplog)


def test_a_trace_goes_on_with_the_clients(tracer: Tracer, collector: Collector) -> None:
    opened = tracer.open("wake", NOW, CLIENT)
    assert opened.context["tracestate"] == "vendor=1"
    tracer.tell(START, opened.context["traceparent"])
    opened.close(Span("wake", NOW, NOW + 4, {"vernal.pool.name": "p"}, (Span("held", NOW, NOW + 3),)))
    found = arrived(collector, 6)
    assert {span.trace for span in found.values()} == {"a" * 32}
    assert (found["wake"].parent, found["held"].parent, found["start"].parent) == ("b" * 16, *[found["wake"].id] * 2)
    assert opened.context["traceparent"] == f"00-{'a' * 32}-{found['wake'].id}-01"
    assert found["wake"].kind == 2 and found["wake"].seconds == 4  # SPAN_KIND_SERVER


@pytest.mark.parametrize("said", ["", "nonsense", f"00-{'0' * 32}-{'b' * 16}-01", f"00-{'a' * 32}-{'b' * 16}"])
def test_what_is_no_trace_context_begins_a_trace(tracer: Tracer, collector: Collector, said: str) -> None:
    opened = tracer.open("wake", NOW, {"traceparent": said})
    opened.close(Span("wake", NOW, NOW + 1))
    found = arrived(collector, 1)["wake"]
    assert found.parent == "" and found.trace == opened.context["traceparent"].split("-")[1] != "a" * 32


@pytest.mark.parametrize(("sampler", "sent"), [("always_on", 5), ("parentbased_always_on", 0)])
def test_the_sampler_decides_for_waker_and_operator_alike(
    collector: Collector, monkeypatch: pytest.MonkeyPatch, counts: Counts, sampler: str, sent: int
) -> None:
    """What the client's own sampler has left out."""
    monkeypatch.setenv("OTEL_TRACES_SAMPLER", sampler)
    tracer = tracing.set_up("vernal-test", counts)
    assert tracer is not None
    opened = tracer.open("wake", NOW, {"traceparent": f"00-{'a' * 32}-{'b' * 16}-00"})
    opened.close(Span("wake", NOW, NOW + 1))
    tracer.tell(START, opened.context["traceparent"])
    tracer.tell(Span("of another", NOW, NOW + 1), "")
    until("what is sent", lambda: counts.found["sent"] == sent + 1)
    assert {span.trace for span in collector.spans if span.name != "of another"} == ({"a" * 32} if sent else set())
    tracer.close()


def test_workers_words_are_cut(tracer: Tracer, collector: Collector) -> None:
    tracer.tell(Span("start", NOW, NOW, {"vernal.start.reason": "x" * 10**6}), "")
    assert len(arrived(collector, 1)["start"].attributes["vernal.start.reason"]) == 256


def test_a_failing_collector_is_told_of_once_and_when_it_is_over(
    tracer: Tracer, collector: Collector, counts: Counts, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    collector.status = 400
    for number in range(1, 4):
        tracer.tell(Span("start", NOW, NOW), "")
        until("it to fail", lambda number=number: counts.found["failed"] == number)  # type: ignore[misc]
    (told,) = warnings(caplog)
    assert collector.url in told and "code: 400" in told and "tracing.endpoint" in told
    collector.status = 200
    tracer.tell(Span("start", NOW, NOW), "")
    arrived(collector, 1)
    until("it to be told", lambda: "are sent to" in caplog.text)
    assert len(warnings(caplog)) == 1
    assert not logging.getLogger("opentelemetry").propagate, "what the SDK says for each try is in no log"


def test_no_collector_at_all(
    collector: Collector, counts: Counts, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://user:secret@127.0.0.1:1")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "2.5")
    tracer = tracing.set_up("vernal-test", counts)
    assert tracer is not None
    tracer.tell(START, "")
    until("it to fail", lambda: counts.found["failed"] == 4)
    until("it to be told", lambda: warnings(caplog) != [])
    (told,) = warnings(caplog)
    assert "http://127.0.0.1:1 " in told and "refused" in told and "secret" not in caplog.text
    tracer.close()


def test_a_collector_that_never_answers_holds_nobody_up(tracer: Tracer, collector: Collector, counts: Counts) -> None:
    """It answers nothing until all of this is over: what would wait for it would never end."""
    collector.go.clear()
    for _ in range(QUEUE + 500):
        tracer.tell(Span("start", NOW, NOW), "")
    assert counts.found == {"dropped": 500}, "the memory that spans take is bounded"
    tracer.close()
    assert not collector.go.is_set() and counts.found == {"dropped": 500}
    collector.go.set()  # it goes on by itself, and would tell of what it meets in the middle of another test
    until("what waited to be sent", lambda: counts.found == {"dropped": 500, "sent": QUEUE})


def test_what_waits_is_sent_at_the_end(collector: Collector, counts: Counts, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", str(int(GUARD_SECONDS * 1000)))
    tracer = tracing.set_up("vernal-test", counts)
    assert tracer is not None
    tracer.tell(START, "")
    assert not collector.spans
    threading.Thread(target=tracer.close, daemon=True).start()
    arrived(collector, 4)


def test_without_the_extra_there_are_no_traces(
    collector: Collector, monkeypatch: pytest.MonkeyPatch, counts: Counts, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.delitem(sys.modules, "vernal_operator.otel")
    monkeypatch.setitem(sys.modules, "opentelemetry.sdk.trace.export", None)
    assert tracing.set_up("vernal-test", counts) is None
    (told,) = warnings(caplog)
    assert "vernal[tracing]" in told


def test_wrong_variables_cost_no_operator(
    collector: Collector, monkeypatch: pytest.MonkeyPatch, counts: Counts, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "0")
    assert tracing.set_up("vernal-test", counts) is None
    (told,) = warnings(caplog)
    assert "OTEL_*" in told
