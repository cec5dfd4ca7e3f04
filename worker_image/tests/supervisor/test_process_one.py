"""What process 1 does beside deciding: log, reap, read output, answer on the admin port, start fast."""

import json
import os
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator

import pytest
from patience import GUARD_SECONDS, until
from vernal_contract.state import Phase, RestoreFailure, WorkerState, decode
from vernal_worker.supervisor import admin, log, metrics, reaper
from vernal_worker.supervisor.board import Board, process_age
from vernal_worker.supervisor.listener import open_listener
from vernal_worker.supervisor.output import Output


def test_the_start_imports_nothing_heavy() -> None:
    """A user waits for every import of process 1."""
    code = "import sys, vernal_worker.supervisor.main; print(*sys.modules)"
    loaded = subprocess.check_output([sys.executable, "-c", code], text=True).split()
    heavy = {"torch", "vllm", "numpy", "asyncio", "http.server", "importlib.metadata", "prometheus_client"}
    assert not heavy & set(loaded)


def test_log_lines_are_one_line_and_can_be_parsed_by_eye(capfd: pytest.CaptureFixture[str]) -> None:
    log.event("phase", phase="Ready", seconds=1.23456, message='two\nlines and a "quote"', absent=None)
    line = capfd.readouterr().out
    assert line.count("\n") == 1
    assert line.endswith('vernal event=phase phase=Ready seconds=1.235 message="two\\nlines and a \\"quote\\""\n')


def test_output_is_passed_on_by_lines(capfd: pytest.CaptureFixture[str]) -> None:
    read, write = os.pipe()
    output = Output(read)
    for part in (b"one\ntw", b"o\r\n", b"x" * 100_000 + b"\n", "schräg\n".encode(), b"no end"):
        os.write(write, part) if len(part) < 1000 else threading.Thread(target=os.write, args=(write, part)).start()
        time.sleep(0.05)
    os.close(write)
    output.join(GUARD_SECONDS)
    lines = [line.partition(" engine ")[2] for line in capfd.readouterr().out.splitlines()]
    assert lines[:2] == ["one", "two"] and lines[-2:] == ["schräg", "no end"]
    assert "".join(lines[2:-2]) == "x" * 100_000
    assert output.tail()[-1] == "no end"
    os.close(read)


def test_a_dead_child_is_reaped_only_when_nobody_else_wants_it() -> None:
    child = subprocess.Popen(["true"])
    until("it to be dead", lambda: child.pid in reaper.dead_children())
    assert child.wait() == 0
    assert child.pid not in reaper.dead_children()
    assert reaper.unwanted({7: 0.0, 8: 9.0}, 10.0) == [7]


def test_age_counts_from_the_start_of_the_process() -> None:
    code = "import time; time.sleep(0.3); from vernal_worker.supervisor.board import process_age; print(process_age())"
    began = time.monotonic()
    age = float(subprocess.check_output([sys.executable, "-c", code]))
    assert 0.3 <= age <= time.monotonic() - began + 0.02
    assert process_age() > 0


class Source:
    def __init__(self) -> None:
        state = WorkerState(pod="p", namespace="n", pool="o", revision="r", phase=Phase.STARTING)
        self.board = Board(state)
        self.problem: str | None = "not yet"
        self.drained = False

    def live(self) -> str | None:
        return None

    def ready(self) -> str | None:
        return self.problem

    started = ready

    def state(self) -> WorkerState:
        return self.board.snapshot()

    def metrics(self) -> str:
        return metrics.text(self.state())

    def drain(self) -> str | None:
        self.drained = self.problem is None
        return self.problem


@pytest.fixture
def served() -> Iterator[tuple[Source, str]]:
    source = Source()
    listener = socket.create_server(("127.0.0.1", 0))
    threading.Thread(target=admin.serve, args=(listener, source), daemon=True).start()
    yield source, f"http://127.0.0.1:{listener.getsockname()[1]}"


def ask(url: str, method: str = "GET") -> tuple[int, bytes]:
    request = urllib.request.Request(url, method=method)
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


def test_a_taken_port_is_an_error() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(OSError, match="in use"):
        open_listener(taken.getsockname()[1], 1)
