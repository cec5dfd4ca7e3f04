"""The admin port: what it shows, what it takes, and what whoever reaches it cannot do."""

import contextlib
import json
import socket
import struct
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request

import pytest
from patience import GUARD_SECONDS, until
from vernal_contract.state import Phase, RestoreFailure, WorkerState, decode
from vernal_worker.supervisor import admin, metrics
from vernal_worker.supervisor.board import Board


class Source:
    def __init__(self) -> None:
        state = WorkerState(pod="p", namespace="n", pool="o", revision="r", phase=Phase.STARTING)
        self.board = Board(state)
        self.problem: str | None = "not yet"
        self.drained = False
        self.is_over = threading.Event()
        self.waits: list[float] = []
        self.goes_on = threading.Event()  # `live` waits for it
        self.goes_on.set()
        self.living = 0

    def live(self) -> str | None:
        self.living += 1
        self.goes_on.wait()
        return None

    def ready(self) -> str | None:
        return self.problem

    def started(self, wait: float = 0.0) -> str | None:
        self.waits.append(wait)
        self.is_over.wait(wait)
        return self.problem

    def state(self) -> WorkerState:
        return self.board.snapshot()

    def metrics(self) -> str:
        return metrics.text(self.state())

    def drain(self) -> str | None:
        self.drained = self.problem is None
        return self.problem


def serve(token: str | None = None) -> tuple[Source, str]:
    source = Source()
    listener = socket.create_server(("", 0))
    threading.Thread(target=admin.serve, args=(listener, source, token), daemon=True).start()
    return source, f"http://127.0.0.1:{listener.getsockname()[1]}"


@pytest.fixture
def served() -> tuple[Source, str]:
    return serve()


def ask(url: str, method: str = "GET", **headers: str) -> tuple[int, bytes]:
    request = urllib.request.Request(url, method=method, headers=headers)
    try:
        with urllib.request.urlopen(request, timeout=GUARD_SECONDS) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        return error.code, error.read()


def test_probes(served: tuple[Source, str]) -> None:
    source, url = served
    assert ask(url + "/livez")[0] == 200
    assert ask(url + "/readyz") == (503, b'{"message": "not yet"}')
    assert ask(url + "/startupz")[0] == 503
    source.problem = None
    assert ask(url + "/readyz")[0] == 200 and ask(url + "/startupz")[0] == 200


def test_a_probe_that_waits_learns_of_the_end_of_the_start_at_once(
    served: tuple[Source, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(admin, "MOST_WAIT_SECONDS", GUARD_SECONDS)
    source, url = served
    answers: list[tuple[int, bytes]] = []
    asking = threading.Thread(target=lambda: answers.append(ask(url + "/startupz?wait=9000")))
    asking.start()
    until("it to wait", lambda: source.waits == [admin.MOST_WAIT_SECONDS])
    source.problem = None
    source.is_over.set()
    asking.join(GUARD_SECONDS)
    assert [status for status, _ in answers] == [200]
    for wait, expected in (("", 0.0), ("?wait=x", 0.0), ("?wait=-3", 0.0), ("?wait=nan", 0.0), ("?wait=0.5", 0.5)):
        ask(url + "/startupz" + wait)
        assert source.waits[-1] == expected, wait


def test_state_and_metrics(served: tuple[Source, str]) -> None:
    source, url = served
    with source.board.timed("verify"):
        pass
    source.board.failed_restore(RestoreFailure(generation="g", stage="verify", reason="DigestMismatch", message="m"))
    source.board.phase(Phase.READY)
    state = decode(ask(url + "/state")[1])
    assert state.ready and "verify" in state.timings and state.restore_failures[0].reason == "DigestMismatch"
    text = ask(url + "/metrics")[1].decode()
    assert 'vernal_worker_restore_failures_total{reason="DigestMismatch",stage="verify"} 1.0' in text
    assert "vernal_worker_ready 1.0" in text


def test_drain(served: tuple[Source, str]) -> None:
    source, url = served
    assert ask(url + "/drain")[0] == 405
    assert ask(url + "/drain", "POST")[0] == 409 and not source.drained
    source.problem = None
    status, body = ask(url + "/drain", "POST")
    assert status == 202 and source.drained and json.loads(body)["pod"] == "p"


def test_unknown_paths_say_which_there_are(served: tuple[Source, str]) -> None:
    status, body = ask(served[1] + "/nope")
    assert status == 404 and b"/readyz" in body


def test_a_drain_takes_the_token(capfd: pytest.CaptureFixture[str]) -> None:
    source, url = serve("sesame")
    source.problem = None
    for wrong in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": "Basic sesame"}):
        status, body = ask(url + "/drain", "POST", **wrong)
        assert status == 401 and b"VERNAL_ADMIN_TOKEN" in body and not source.drained
    assert ask(url + "/state")[0] == 200, "whoever may reach the port may look"
    assert ask(url + "/drain", "POST", Authorization="Bearer sesame")[0] == 202 and source.drained


def test_without_a_token_a_drain_comes_from_inside_the_pod(served: tuple[Source, str]) -> None:
    source, url = served
    source.problem = None
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))  # sends nothing: it only picks this machine's own address
        except OSError:
            pytest.skip("this machine has no address but loopback")
        here = probe.getsockname()[0]
    status, body = ask(url.replace("127.0.0.1", here) + "/drain", "POST")
    assert status == 403 and b"VERNAL_ADMIN_TOKEN" in body and not source.drained
    assert ask(url + "/drain", "POST")[0] == 202 and source.drained


def raw(url: str, data: bytes) -> bytes:
    """What comes back until the server closes."""
    host, port = url.removeprefix("http://").split(":")
    answer = b""
    with socket.create_connection((host, int(port)), timeout=GUARD_SECONDS) as connection:
        with contextlib.suppress(ConnectionError):
            connection.sendall(data)
        with contextlib.suppress(ConnectionError):
            while part := connection.recv(1 << 16):
                answer += part
    return answer


def test_a_client_that_goes_away_is_no_line_in_the_log(capfd: pytest.CaptureFixture[str]) -> None:
    """Whoever reaches the port could fill the log with tracebacks otherwise."""
    source, listener = Source(), socket.create_server(("127.0.0.1", 0))
    server = admin._Server(listener, source, None)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    for _ in range(20):
        with socket.create_connection(listener.getsockname(), timeout=GUARD_SECONDS) as connection:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # a reset
            connection.sendall(b"GET /startupz?wait=0.05 HTTP/1.1\r\nHost: x\r\n\r\n")
            until("the request to be taken", lambda: source.waits)
        source.waits.clear()
    until("the connections to be done with", lambda: not server._connections)
    assert "admin_request_failed" not in "".join(capfd.readouterr())
    server.shutdown()


@pytest.mark.parametrize("path", ["/drain", "/nope"])
@pytest.mark.parametrize(
    "header, status",
    [
        ("Content-Length: -1", 400),
        ("Content-Length: abc", 400),
        ("Content-Length: ", 400),
        ("Content-Length: \u00b2", 400),
        ("Content-Length: 400000000", 413),
        ("Content-Length: " + "9" * 5000, 413),
        ("Transfer-Encoding: chunked", 411),
    ],
)
def test_no_body_is_read(
    served: tuple[Source, str], path: str, header: str, status: int, capfd: pytest.CaptureFixture[str]
) -> None:
    """The connection stays open: an answer comes although the body does not."""
    source, url = served
    answer = raw(url, f"POST {path} HTTP/1.1\r\nHost: x\r\n{header}\r\n\r\n".encode("latin-1"))
    assert int(answer.split(b" ")[1]) == status, answer
    assert b"Connection: close" in answer and not source.drained
    assert "Traceback" not in "".join(capfd.readouterr())


def test_400_megabytes_are_not_kept(served: tuple[Source, str]) -> None:
    _, url = served
    body = bytes(400_000_000)
    answer = raw(url, b"POST /nope HTTP/1.1\r\nHost: x\r\nContent-Length: 400000000\r\n\r\n" + body)
    assert not answer or b" 413 " in answer  # a reset may overtake the answer
    assert ask(url + "/livez")[0] == 200


def test_a_small_body_is_taken_and_ignored(served: tuple[Source, str]) -> None:
    source, url = served
    source.problem = None
    request = urllib.request.Request(url + "/drain", b"{}", method="POST")
    assert urllib.request.urlopen(request, timeout=GUARD_SECONDS).status == 202 and source.drained


def test_many_idle_connections_lock_no_probe_out(served: tuple[Source, str]) -> None:
    _, url = served
    host, port = url.removeprefix("http://").split(":")
    before = threading.active_count()
    idle = [
        socket.create_connection((host, int(port)), timeout=GUARD_SECONDS) for _ in range(3 * admin.MAX_CONNECTIONS)
    ]
    assert ask(url + "/livez")[0] == 200
    assert idle[0].recv(1) == b"", "the oldest went first"
    deadline = time.monotonic() + GUARD_SECONDS  # against a hang
    while threading.active_count() - before > admin.MAX_CONNECTIONS + 1:
        assert time.monotonic() < deadline, "there are threads for more connections than are kept"
        time.sleep(0.01)
    for connection in idle:
        connection.close()


PROBE = b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n"


def test_a_burst_closes_nobody_who_is_being_answered(
    served: tuple[Source, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The kubelet's start-up probe waits for seconds, and is then the oldest."""
    monkeypatch.setattr(admin, "MOST_WAIT_SECONDS", GUARD_SECONDS)
    source, url = served
    host, port = url.removeprefix("http://").split(":")
    answers: list[tuple[int, bytes]] = []
    asking = threading.Thread(target=lambda: answers.append(ask(url + "/startupz?wait=9000")))
    asking.start()
    until("it to wait", lambda: source.waits)
    idle = [socket.create_connection((host, int(port)), timeout=GUARD_SECONDS) for _ in range(admin.MAX_CONNECTIONS)]
    assert idle[0].recv(1) == b"", "the oldest that does nothing went"
    source.problem = None
    source.is_over.set()
    asking.join(GUARD_SECONDS)
    assert [status for status, _ in answers] == [200]
    for connection in idle:
        connection.close()


def test_when_all_are_being_answered_a_newcomer_is_told_so(served: tuple[Source, str]) -> None:
    source, url = served
    host, port = url.removeprefix("http://").split(":")
    source.goes_on.clear()
    busy = [socket.create_connection((host, int(port)), timeout=GUARD_SECONDS) for _ in range(admin.MAX_CONNECTIONS)]
    for connection in busy:
        connection.sendall(PROBE)
    until("all to be answered", lambda: source.living == admin.MAX_CONNECTIONS)
    with socket.create_connection((host, int(port)), timeout=GUARD_SECONDS) as newcomer:
        assert newcomer.recv(1 << 16).startswith(b"HTTP/1.1 503 ")
    source.goes_on.set()
    for connection in busy:
        assert connection.recv(1 << 16).startswith(b"HTTP/1.1 200 ")
        connection.close()


def test_only_so_many_wait(served: tuple[Source, str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Else whoever reaches the port could hold all connections with it."""
    monkeypatch.setattr(admin, "MOST_WAIT_SECONDS", GUARD_SECONDS)
    source, url = served
    asking = [threading.Thread(target=ask, args=[url + "/startupz?wait=9000"]) for _ in range(admin.MOST_WAITING)]
    for thread in asking:
        thread.start()
    until("them to wait", lambda: len(source.waits) == admin.MOST_WAITING)
    assert ask(url + "/startupz?wait=9000")[0] == 503 and source.waits[-1] == 0.0
    source.is_over.set()
    for thread in asking:
        thread.join(GUARD_SECONDS)
    ask(url + "/startupz?wait=9000")
    assert source.waits[-1] == admin.MOST_WAIT_SECONDS, "there is room again"


@pytest.mark.parametrize(
    "head",
    [
        b"GET /livez HTTP/1.1\r\n" + b"".join(b"X-%d: " % n + b"x" * 60_000 + b"\r\n" for n in range(90)),
        b"GET /livez?" + b"x" * 60_000 + b" HTTP/1.1\r\n",
        b"GET /livez HTTP/1.1\r\n" + b"".join(b"X-%d: y\r\n" % n for n in range(200)),
    ],
    ids=["90 fields of 60 kB", "an address of 60 kB", "200 fields"],
)
def test_a_large_header_is_refused(served: tuple[Source, str], head: bytes) -> None:
    answer = raw(served[1], head + b"\r\n")
    assert not answer or int(answer.split(b" ")[1]) in (414, 431)  # a reset may overtake the answer
    assert served[0].living == 0
    assert ask(served[1] + "/livez")[0] == 200


@pytest.mark.parametrize(
    "head",
    [b"", b"GET /livez HTTP/1.1\r\nX: ", b"POST /drain HTTP/1.1\r\nContent-Length: 60000\r\n\r\n"],
    ids=["a line", "a field", "a body"],
)
def test_a_request_has_so_long_to_come(
    served: tuple[Source, str], head: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However often there is a byte of it."""
    monkeypatch.setattr(admin, "REQUEST_SECONDS", 0.2)
    source, url = served
    host, port = url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=0.02) as connection:
        connection.sendall(head)

        def closed() -> bool:
            try:
                connection.sendall(b"x")
                return connection.recv(1) == b""
            except TimeoutError:
                return False
            except ConnectionError:
                return True

        until("the server to close", closed)
    assert source.living == 0


def test_the_failures_of_threads_are_counted() -> None:
    code = """
import threading
from vernal_contract.state import Phase, WorkerState
from vernal_worker import threads
from vernal_worker.supervisor import log, metrics

done = threading.Event()

def work():
    if threads.failures["planted"] == 0:
        raise ValueError("planted")
    done.set()

threads.keep_running("planted", work, log.thread_failed, pause=0.0)
assert done.wait(120)
print(metrics.text(WorkerState(pod="p", namespace="n", pool="o", revision="r", phase=Phase.READY)))
"""
    text = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=GUARD_SECONDS
    ).stdout
    assert 'vernal_worker_thread_failures_total{thread="planted"} 1.0' in text
    assert "event=thread_failed thread=planted" in text and "ValueError: planted" in text
