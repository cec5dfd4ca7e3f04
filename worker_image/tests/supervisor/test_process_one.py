"""What process 1 does beside deciding: log, reap, read output, start fast."""

import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from patience import GUARD_SECONDS, until
from vernal_contract.reasons import Reason
from vernal_worker.supervisor import farewell, log, reaper
from vernal_worker.supervisor.board import process_age
from vernal_worker.supervisor.exits import ExitCode
from vernal_worker.supervisor.listener import bind
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
        os.write(write, part)  # waits for the reader, where it is more than a pipe holds
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


def test_a_taken_port_is_an_error() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(OSError, match="in use"):
        bind(taken.getsockname()[1])


def test_a_port_that_is_ours_refuses_until_it_listens() -> None:
    with bind(0) as ours:
        port = ours.getsockname()[1]
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", port), timeout=GUARD_SECONDS)
        ours.listen(1)
        socket.create_connection(("127.0.0.1", port), timeout=GUARD_SECONDS).close()


def test_the_last_words_are_in_the_termination_message(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    place = tmp_path / "termination-log"
    place.touch()
    monkeypatch.setattr(farewell, "TERMINATION_LOG", place)
    why = "the engine exited with code 1: ValueError: To serve at least one request"
    farewell.say_farewell(ExitCode.ENGINE_START_FAILED, why, Reason.ENGINE_START_FAILED)
    text = place.read_text()
    assert text.startswith(f"EngineStartFailed: {why}\n") and "spec.engineArgs" in text
    farewell.say_farewell(ExitCode.ENGINE_START_FAILED, "ä" * 5000, Reason.ENGINE_START_FAILED)
    assert len(place.read_bytes()) <= 4096 and "spec.engineArgs" in place.read_text(), "the next step is not cut off"
