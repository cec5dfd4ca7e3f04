"""Starts as traces: below the request that has woken the pool, where a waker says so; waiting for nobody. Wakers are
HTTP servers on loopback."""

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from patience import GUARD_SECONDS, until
from prometheus_client import REGISTRY
from vernal_contract import wakes
from vernal_contract.wakes import MAX_BYTES, Wake
from vernal_operator.observe import traces
from vernal_operator.observe.cache import Entry
from vernal_operator.observe.traces import Traces
from vernal_operator.observe.views import SliceView
from vernal_operator.observe.wakers import Wakers
from vernal_operator.plan.timeline import Timeline, Wish
from vernal_operator.spans import Span
from vernal_operator.tracing import Opened

UID = "a uid & more"
TRACE = f"00-{'a' * 32}-{'b' * 16}-01"
ANOTHER = f"00-{'c' * 32}-{'d' * 16}-01"


class Tracer:
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.told: list[tuple[str, str]] = []  # a span's name, and its parent

    def tell(self, span: Span, parent: str) -> None:
        self.told.append((span.name, parent))

    def open(self, name: str, begin: float, headers: Mapping[str, str]) -> Opened:
        raise AssertionError("only wakers open spans")

    def close(self) -> None:
        pass


class Waker:
    """Answers everything with `body`; once `go` is set."""

    def __init__(self, body: bytes, status: int = 200) -> None:
        self.asked: list[str] = []
        self.go = threading.Event()
        self.go.set()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                outer.asked.append(self.path)
                outer.go.wait(GUARD_SECONDS)
                self.send_response(status)
                self.send_header("Location", "/elsewhere")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True

    @property
    def port(self) -> int:
        return self.server.server_address[1]

    @contextmanager
    def serving(self) -> Iterator[None]:
        thread = threading.Thread(target=self.server.serve_forever, daemon=True)
        thread.start()
        try:
            yield
        finally:
            self.go.set()
            self.server.shutdown()
            self.server.server_close()
            thread.join(GUARD_SECONDS)


def start(name: str, versions: tuple[int, int] | None = (3, 5), *, wished: bool = True) -> Timeline:
    return Timeline({}, Span(name, 1.0, 2.0), Wish(1.0, versions) if wished else None)


Make = Callable[..., Traces]


@pytest.fixture
def tracer() -> Tracer:
    return Tracer()


@pytest.fixture
def make(tracer: Tracer) -> Iterator[Make]:
    with ExitStack() as stack:

        def made(*wakers: Waker, timeout: float = GUARD_SECONDS) -> Traces:
            known = Wakers(None, "sys", "w", lambda: None, silence=1.0)  # type: ignore[arg-type]
            for number, waker in enumerate(wakers):
                stack.enter_context(waker.serving())
                view = SliceView("u", "h", None, service="w", ready=("127.0.0.1",), port=waker.port)
                known._cache.seen(Entry("sys", f"w-{number}", f"u{number}", number + 1, "", "", view))
            found = Traces(tracer, known, timeout)
            stack.callback(found.close)
            return found

        yield made


def said(*found: Wake) -> Waker:
    return Waker(wakes.encode(found))


def test_a_start_from_zero_goes_on_with_what_a_waker_says(tracer: Tracer, make: Make) -> None:
    first, second = said(Wake(UID, 5, TRACE)), said(Wake(UID, 3, ANOTHER), Wake("else", 5, ANOTHER))
    make(first, second).tell(start("a"), UID)
    until("it to be told", lambda: tracer.told)
    assert tracer.told == [("a", TRACE)]
    assert first.asked == second.asked == ["/wakes?uid=a+uid+%26+more"], "each once"


@pytest.mark.parametrize("told", [start("a", None), start("a", wished=False)])
def test_wakers_are_asked_for_starts_from_zero_alone(tracer: Tracer, make: Make, told: Timeline) -> None:
    waker = said(Wake(UID, 5, TRACE))
    made = make(waker)
    made.tell(told, UID)
    assert tracer.told == [("a", "")], "at once"
    made.close()
    assert not waker.asked


def test_without_a_waker_each_start_is_its_own(tracer: Tracer) -> None:
    made = Traces(tracer, None)
    made.tell(start("a"), UID)
    assert tracer.told == [("a", "")]
    made.close()


@pytest.mark.parametrize(
    "waker",
    [
        lambda: Waker(b"not JSON"),
        lambda: Waker(b'{"wakes": [{"uid": "u", "version": 1, "traceparent": "x"}]}'),
        lambda: Waker(wakes.encode([Wake(UID, 5, TRACE)]) + b" " * MAX_BYTES),
        lambda: Waker(wakes.encode([Wake(UID, 5, TRACE)]), status=500),
        lambda: Waker(wakes.encode([Wake(UID, 5, TRACE)]), status=302),
        lambda: Waker(b"[" * 30000),
    ],
    ids=["no JSON", "no trace", "too much", "refused", "elsewhere", "deep"],
)
def test_a_waker_that_answers_wrong_keeps_no_other_from_being_heard(
    tracer: Tracer, make: Make, caplog: pytest.LogCaptureFixture, waker: Callable[[], Waker]
) -> None:
    failed = REGISTRY.get_sample_value("vernal_operator_wake_reads_total", {"result": "failed"}) or 0.0
    wrong = waker()
    make(wrong, said(Wake(UID, 5, ANOTHER))).tell(start("a"), UID)
    until("it to be told", lambda: tracer.told)
    assert tracer.told == [("a", ANOTHER)] and len(wrong.asked) == 1
    assert REGISTRY.get_sample_value("vernal_operator_wake_reads_total", {"result": "failed"}) == failed + 1
    (line,) = [record.getMessage() for record in caplog.records if "GET /wakes" in record.getMessage()]
    assert f"port {wrong.port}" in line and "let the operator reach that port" in line


def test_nobody_waits_for_a_waker_that_is_silent(tracer: Tracer, make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(traces, "QUEUE", 1)
    silent = said(Wake(UID, 5, TRACE))
    silent.go.clear()
    made = make(silent)
    made.tell(start("first"), UID)
    until("it to be asked", lambda: silent.asked)
    made.tell(start("second"), UID)
    assert not tracer.told
    made.tell(start("third"), UID)
    assert tracer.told == [("third", "")], "more may not wait"
    silent.go.set()
    until("the others", lambda: len(tracer.told) == 3)
    assert tracer.told[1:] == [("first", TRACE), ("second", TRACE)]


def test_a_waker_that_is_silent_for_too_long_is_not_heard(
    tracer: Tracer, make: Make, caplog: pytest.LogCaptureFixture
) -> None:
    silent = said(Wake(UID, 5, TRACE))
    silent.go.clear()
    make(silent, timeout=0.1).tell(start("a"), UID)
    until("it to be told", lambda: tracer.told)
    assert tracer.told == [("a", "")] and "TimeoutError" in caplog.text


def test_at_the_end_nobody_is_asked_and_nothing_lost(tracer: Tracer, make: Make) -> None:
    held = said(Wake(UID, 5, TRACE))
    held.go.clear()
    made = make(held)
    made.tell(start("first"), UID)
    until("it to be asked", lambda: held.asked)
    made.tell(start("second"), UID)
    closing = threading.Thread(target=made.close, daemon=True)
    closing.start()
    until("it to close", lambda: made._closing)
    held.go.set()
    closing.join(GUARD_SECONDS)
    made.tell(start("third"), UID)
    until("all to be told", lambda: len(tracer.told) == 3)
    assert sorted(tracer.told) == [("first", TRACE), ("second", ""), ("third", "")] and len(held.asked) == 1
