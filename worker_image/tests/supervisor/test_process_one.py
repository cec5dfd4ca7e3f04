"""What process 1 does beside deciding: log, reap, read output, start fast."""

import os
import re
import socket
import subprocess
import sys
import sysconfig
import threading
import time
from pathlib import Path

import pytest
from patience import GUARD_SECONDS, until
from vernal_contract.reasons import Reason
from vernal_contract.state import Phase, WorkerState
from vernal_worker.__main__ import FOUND
from vernal_worker.checkpoint import host
from vernal_worker.checkpoint.cuda import nvml
from vernal_worker.checkpoint.gpu import Gpus, gpus
from vernal_worker.supervisor import admin, farewell, log, main, reaper, software
from vernal_worker.supervisor.board import Board, process_age
from vernal_worker.supervisor.exits import ExitCode
from vernal_worker.supervisor.listener import bind
from vernal_worker.supervisor.output import Output

HEAVY = {
    *("torch", "vllm", "numpy", "obstore", "prometheus_client"),
    *("asyncio", "http.client", "http.server", "ssl", "email", "urllib.request"),
    *("argparse", "concurrent.futures", "importlib.metadata"),
    *("dataclasses", "inspect", "typing_extensions", "runpy"),
}
"""What no thaw needs before CRIU runs."""

COLD = {
    *("arguments", "commands", "engine", "bucket.objects", "bucket.store"),
    *(f"checkpoint.{name}" for name in ("freeze", "ghosts", "images", "launch", "mapped", "surroundings")),
    *(f"store.{name}" for name in ("collect", "remove", "staging", "writeback")),
    *(f"supervisor.{name}" for name in ("admin", "creation", "fetching", "hub_request", "launching", "metrics")),
    "supervisor.rootcause",
}
"""Modules of Vernal's of which the same is true."""


AS_A_START = "from vernal_worker import imports; imports.msgspec_alone()"
FOR_FAILURES = {"logging", "traceback", "shutil"}
"""What only failures need: imported when they happen, which may be when no file can be opened."""


def imported(module: str, before: str = "") -> set[str]:
    """What is imported with a module by a process that has nothing yet, but what the statements `before` have done."""
    code = f"{before}\nimport sys, {module}; print(*sys.modules)"
    return set(subprocess.check_output([sys.executable, "-c", code], text=True).split())


def test_the_start_imports_nothing_that_a_thaw_can_do_without() -> None:
    """A user waits for every import of process 1."""
    loaded = imported("vernal_worker.supervisor.software, vernal_worker.supervisor.main", AS_A_START)
    assert {"vernal_worker.supervisor.thawing", "vernal_worker.checkpoint.thaw"} <= loaded
    assert not (HEAVY | FOR_FAILURES | {f"vernal_worker.{name}" for name in COLD}) & loaded


def test_what_failures_need_is_there_once_criu_runs() -> None:
    assert imported("vernal_worker.supervisor.admin") >= FOR_FAILURES


@pytest.mark.parametrize("before", ["", "import typing_extensions"])
def test_msgspec_alone_does_without_typing_extensions(before: str) -> None:
    """Others find it, or have it already."""
    code = (
        f"{before}\n{AS_A_START}\nimport typing_extensions, msgspec\nprint(msgspec.json.decode('[1]', type=list[int]))"
    )
    assert subprocess.check_output([sys.executable, "-c", code], text=True) == "[1]\n"


def test_what_begins_first_imports_little() -> None:
    """All other imports come after it: nothing of it waits for them."""
    assert "msgspec" not in imported("vernal_worker.cli, vernal_worker.checkpoint.cuda.launch")
    software_too = {"msgspec", "pathlib", "subprocess", "json", "blake3"}
    assert not software_too & imported("vernal_worker.cli, vernal_worker.supervisor.software")
    assert not software_too & imported("vernal_worker.checkpoint.gpu, vernal_worker.checkpoint.cuda.nvml")
    assert not {"msgspec", "pathlib", "subprocess"} & imported("vernal_worker.supervisor.image")


def test_a_helper_initialises_the_driver_before_it_imports_much() -> None:
    loaded = imported("vernal_worker.checkpoint.cuda.preparing", "import vernal_worker.imports")
    assert "vernal_worker.checkpoint.cuda.preparing" in loaded
    assert not {"typing", "re", "enum", "mmap", "msgspec", "vernal_worker.checkpoint.cuda.slots"} & loaded


PROGRAM = Path(main.__file__).parents[1] / "__main__.py"


def started_by_image(python: Path | str) -> subprocess.CompletedProcess[str]:
    command = [str(python), "-S", "-P", "-X", "importtime", str(PROGRAM), "--help"]
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    return subprocess.run(command, capture_output=True, text=True, env=environment, check=False)


@pytest.fixture
def environment(tmp_path: Path) -> Path:
    """A virtual environment whose packages are this one's, by a file that `site` reads."""
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/python").symlink_to(sys.executable)
    (tmp_path / "pyvenv.cfg").write_text((Path(sys.prefix) / "pyvenv.cfg").read_text())
    packages = tmp_path / Path(sysconfig.get_path("purelib")).relative_to(sys.prefix)
    packages.mkdir(parents=True)
    (packages / "all.pth").write_text("\n".join(filter(None, sys.path)) + "\n")
    return tmp_path


def noted(environment: Path) -> None:
    """As when an image is built."""
    script = PROGRAM.parents[1] / "python_path.py"
    clean = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    found = subprocess.check_output([environment / "bin/python", "-P", script], text=True, env=clean)
    (environment / FOUND).write_text(found)


LOOKED = re.compile(r"\| +site$", re.MULTILINE)


def test_packages_are_found_where_the_image_says(environment: Path) -> None:
    """Nobody looks for them."""
    noted(environment)
    run = started_by_image(environment / "bin/python")
    assert "usage: vernal-worker" in run.stdout, run.stderr
    assert not LOOKED.search(run.stderr)


@pytest.mark.parametrize("case", ["nothing is noted", "a package came later", "nothing in it", "half of it"])
def test_without_that_they_are_looked_for(environment: Path, case: str) -> None:
    """In an image that is built from ours, too."""
    if case != "nothing is noted":
        noted(environment)
    if case == "a package came later":
        (packages,) = environment.glob("lib/*/site-packages")
        (packages / "theirs.py").touch()
        os.utime(packages, (1, 1))
    if case == "half of it":
        text = (environment / FOUND).read_text()
        (environment / FOUND).write_text(text[: len(text) // 2])
    if case == "nothing in it":
        (environment / FOUND).write_text("")
    run = started_by_image(environment / "bin/python")
    assert "usage: vernal-worker" in run.stdout, run.stderr
    assert LOOKED.search(run.stderr)


def test_the_driver_is_initialised_before_anything_else_is_imported() -> None:
    loaded = imported("vernal_worker.checkpoint.cuda.helper")
    assert not {"msgspec", "subprocess", "pathlib", "dataclasses"} & loaded


def test_the_admin_server_is_imported_when_criu_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(main, "_ADMIN_SECONDS", GUARD_SECONDS)
    served = threading.Event()
    monkeypatch.setattr(admin, "serve", lambda *_: served.set())
    state = WorkerState(pod="p", namespace="n", pool="o", revision="r", start_id="s", phase=Phase.STARTING)
    board, asked = Board(state), threading.Event()
    waits = board.at_leisure.wait

    def wait(seconds: float | None = None) -> bool:
        asked.set()
        return waits(seconds)

    monkeypatch.setattr(board.at_leisure, "wait", wait)
    with bind(0) as listener:
        thread = threading.Thread(target=main._serve_admin, args=(listener, None, board, None), daemon=True)
        thread.start()
        assert asked.wait(GUARD_SECONDS) and not served.is_set()
        board.at_leisure.set()
        assert served.wait(GUARD_SECONDS)
        thread.join(GUARD_SECONDS)


def software_of(steps: str, criu: str = "/nonexistent/criu") -> object:
    """What a process with one thread finds out after these steps."""
    code = f"import os, signal\nfrom vernal_worker.supervisor import software\n{steps}\nprint(software.find({criu!r}))"
    environment = {**os.environ, software.ENV_CRIU: "/nonexistent/criu"}
    return subprocess.check_output([sys.executable, "-c", code], text=True, env=environment).strip()


def test_software_is_the_same_whoever_looks() -> None:
    here = software_of("")
    assert "image_id" in str(here)
    unlooked = "def not_again(criu): raise AssertionError\nsoftware.begin()\nsoftware.look = not_again"
    assert software_of(unlooked) == here, "the other process has looked"
    assert software_of("software.begin()\nos.kill(software._looks[0][1].pid, signal.SIGKILL)") == here
    assert software_of("software.begin()\nos.waitpid(software._looks[0][1].pid, 0)") == here, "the reaper was quicker"
    assert software_of(unlooked.partition("\nsoftware.look")[0], criu="/other/criu") == here


def test_gpus_are_asked_for_by_a_process_beside() -> None:
    """And by whoever wants to know, where nobody has, or where that process did not come to an end."""
    code = "from vernal_worker.supervisor import software\n{}\nsoftware.find('criu')\nprint(software.devices())"

    def found(steps: str) -> str:
        program = f"import os, signal\n{code.format(steps)}"
        return subprocess.check_output([sys.executable, "-c", program], text=True, env=os.environ).strip()

    assert found("") == "None"
    here = nvml.devices(gpus().uuids) if gpus().count else []
    assert found("software.begin()") == str(here)
    silent = "software._ask_nvml = signal.pause\n"
    assert found(f"{silent}software.begin()\nos.kill(software._asks[0].pid, signal.SIGKILL)") == "None"


def test_what_was_found_out_is_in_the_host_tuple(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two parts of one GPU and another one, as NVML would tell them: it is not asked again."""
    parts = [nvml.Device("NVIDIA A100 MIG 1g.5gb", 5 << 30, "8.0")] * 2
    known = [*parts, nvml.Device("NVIDIA H200", 140 << 30, "9.0")]
    monkeypatch.setattr(host, "gpus", lambda: Gpus("NVIDIA A100, NVIDIA H200", 2, "580.1", ("GPU-a", "GPU-b")))
    monkeypatch.setattr(nvml, "devices", lambda uuids: pytest.fail("it was asked"))
    found = host.host_tuple([], known)
    assert found.gpu_product == "NVIDIA A100 MIG 1g.5gb, NVIDIA H200"
    assert (found.gpu_count, found.gpu_memory_gib) == (3, (5, 5, 140))
    assert found.gpu_compute_capability == "8.0, 9.0"


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
