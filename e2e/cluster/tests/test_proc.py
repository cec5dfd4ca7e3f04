"""Processes are found again, replaced and ended, and nobody else's ever is."""

from __future__ import annotations

import dataclasses
import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from cluster import proc
from cluster.errors import ClusterError
from patience import until

SLEEP = [sys.executable, "-c", "import signal; signal.pause()"]


def handling(sigterm: str) -> list[str]:
    """A component that prints `ready`, then waits for SIGTERM, which the expression or function `sigterm` handles."""
    code = f"import signal, sys; signal.signal(15, {sigterm}); print('ready', flush=True)\nwhile True: signal.pause()"
    return [sys.executable, "-c", code]


def gated(gate: Path, code: str) -> list[str]:
    """A component that runs `code` once the file `gate` is there."""
    wait = f"import pathlib, subprocess, sys, time\nwhile not pathlib.Path({str(gate)!r}).exists(): time.sleep(0.01)"
    return [sys.executable, "-c", f"{wait}\n{code}"]


@pytest.fixture
def processes(tmp_path: Path) -> Iterator[proc.Processes]:
    made = proc.Processes(tmp_path / "run", tmp_path / "logs", owner=str(tmp_path))
    yield made
    proc.end(list(proc.owned(str(tmp_path))), 0)


@pytest.fixture
def bystander() -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen(SLEEP) as process:
        yield process
        process.kill()


def test_a_reused_pid_is_not_alive_and_not_killed(bystander: subprocess.Popen[bytes]) -> None:
    real = proc.inspect(bystander.pid)
    assert real and proc.alive(real)
    for other in (
        dataclasses.replace(real, start_time=real.start_time - 1),  # an earlier process with the same pid
        dataclasses.replace(real, boot_id="0" * 36),  # the same numbers, before the machine was started again
    ):
        assert not proc.alive(other)
        proc.end([other], patience=0)
    assert bystander.poll() is None


def test_stop_forgets_a_record_whose_pid_was_reused(
    processes: proc.Processes, bystander: subprocess.Popen[bytes], tmp_path: Path
) -> None:
    real = proc.inspect(bystander.pid)
    assert real
    (tmp_path / "run").mkdir()
    stale = dataclasses.replace(real, name="component", start_time=real.start_time - 1)
    (tmp_path / "run" / "component.json").write_text(json.dumps(dataclasses.asdict(stale)))
    processes.stop(["component"])
    assert bystander.poll() is None
    assert processes.record("component") is None


def test_ensure_starts_once_and_replaces_on_other_arguments_or_inputs(
    processes: proc.Processes, tmp_path: Path
) -> None:
    config = tmp_path / "config"
    config.write_text("one")
    assert processes.ensure("component", SLEEP, reads=[config])
    first = processes.running("component")
    assert not processes.ensure("component", SLEEP, reads=[config])
    assert processes.running("component") == first
    config.write_text("two")
    assert processes.ensure("component", SLEEP, reads=[config])
    second = processes.running("component")
    assert second and first and second.pid != first.pid and not proc.alive(first)
    assert processes.ensure("component", [*SLEEP, "argument"], reads=[config])
    assert not proc.alive(second)


def test_ensure_starts_again_what_was_killed_behind_its_back(processes: proc.Processes) -> None:
    processes.ensure("component", SLEEP)
    record = processes.running("component")
    assert record
    proc.end([record], patience=0)
    assert processes.running("component") is None
    assert processes.ensure("component", SLEEP)


def test_stop_ends_what_ignores_sigterm(processes: proc.Processes) -> None:
    processes.ensure("component", handling("signal.SIG_IGN"))
    until("the component to ignore it", lambda: bool(processes.log("component").read_text()))
    record = processes.running("component")
    assert record
    processes.stop(["component"], patience=0.1)
    assert not proc.alive(record)


def test_stop_lets_a_component_end_by_itself(processes: proc.Processes) -> None:
    processes.ensure("component", handling("lambda *_: sys.exit('the last words')"))
    until("the component to handle SIGTERM", lambda: bool(processes.log("component").read_text()))
    processes.stop(["component"], patience=300)
    assert "the last words" in processes.log("component").read_text()


def test_check_shows_the_end_of_the_log(processes: proc.Processes, tmp_path: Path) -> None:
    processes.ensure("component", gated(tmp_path / "gate", "sys.exit('the reason')"))
    (tmp_path / "gate").touch()
    until("the component to end", lambda: not processes.running("component"))
    with pytest.raises(ClusterError, match="the reason"):
        processes.check("component")


def test_an_unreadable_record_counts_as_stopped(processes: proc.Processes, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "component.json").write_text('{"pid": 1')
    assert processes.running("component") is None
    assert processes.ensure("component", SLEEP)


def test_children_that_left_are_still_owned(processes: proc.Processes, tmp_path: Path) -> None:
    leave = f"subprocess.Popen({SLEEP!r}, start_new_session=True)"
    processes.ensure("component", gated(tmp_path / "gate", leave))
    (tmp_path / "gate").touch()
    until("the component to end", lambda: not processes.running("component"))
    # Its program is another one's until execve(2) is through.
    left = until("it", lambda: [record for record in proc.owned(str(tmp_path)) if record.argv == SLEEP])
    assert len(left) == 1
    proc.end(left, patience=5)
    assert list(proc.owned(str(tmp_path))) == []


def test_a_zombie_is_not_alive() -> None:
    with subprocess.Popen(SLEEP) as process:
        record = proc.inspect(process.pid)
        assert record
        process.send_signal(signal.SIGKILL)
        stat = Path(f"/proc/{process.pid}/stat")
        until("the zombie", lambda: stat.read_text().rpartition(")")[2].split()[0] == "Z")
        assert not proc.alive(record)
