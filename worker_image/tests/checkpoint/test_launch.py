"""How a tree is started, watched and ended."""

import os
import signal
from pathlib import Path
from typing import Any

import pytest
from patience import until

pytestmark = pytest.mark.integration


def test_what_the_program_is_given(pods: Any, tmp_path: Path) -> None:
    pod = pods()
    assert pod.launch(cwd="/usr") == 10_000
    given = pod.ask("process")
    assert given["descriptors"] == ["/dev/null", "pipe", "pipe"]
    assert given["inherited"] == 0
    assert given["environment"] == {"PATH": "/usr/bin:/bin", "LC_ALL": "C.UTF-8"}
    assert given["cwd"] == "/usr"
    assert given["session"] == 10_000
    assert pod.ask("ignored") == ["SIGTERM", "SIGINT"]
    assert os.strerror(pod.ask("io_uring")) == "Function not implemented"
    assert all(pid >= 10_000 for pid in pod.members())


def test_the_root_is_small_and_says_what_it_is(pods: Any) -> None:
    """CRIU restores the root's memory after everybody else's."""
    pod = pods()
    root = pod.launch(ballast_mib=100)
    assert pod.sh(f"tr '\\0' ' ' < /proc/{root}/cmdline").rstrip().endswith("_exec.py wait 10001")
    assert int(pod.sh(f"awk '/^RssAnon/ {{print $2}}' /proc/{root}/status")) < 10_000  # KiB


def test_descriptors_of_the_supervisor_stay_out(pods: Any) -> None:
    """A descriptor that process 1 was started with leads out of the tree: CRIU could not dump it."""
    pod = pods("bash", "-c", 'exec 9</etc/passwd; exec "$@"', "-")
    pod.launch()
    assert pod.ask("process")["inherited"] == 0
    pod.freeze("image")


def test_program_that_is_not_there(pods: Any, pod_error: Any) -> None:
    pod = pods()
    with pytest.raises(pod_error, match=r"cannot run no-such-program: .*No such file") as e:
        pod.launch(argv=["no-such-program"])
    assert (e.value.reason, e.value.stage) == ("EngineStartFailed", "launch")
    with pytest.raises(pod_error, match="no-such-directory"):
        pod.launch(cwd="/no-such-directory")
    assert pod.processes() == []


@pytest.mark.parametrize(("command", "code"), [("exit 0", 0), ("exit 3", 3), ("kill -9 $$", -signal.SIGKILL)])
def test_exit_codes(pods: Any, command: str, code: int) -> None:
    pod = pods()
    pod.launch(argv=["sh", "-c", command])
    assert pod.wait() == code
    assert pod.kill() == code


def test_kill_reaches_children_of_dead_parents(pods: Any) -> None:
    pod = pods()
    pod.launch()
    stray = pod.ask("fork", "stray")
    child = pod.ask("fork", "child")
    assert pod.parent(stray) == 1
    assert {stray, child} <= set(pod.members())
    assert pod.kill() == -9
    assert pod.processes() == []


def test_kill_wins_against_a_tree_that_keeps_forking(pods: Any) -> None:
    pod = pods()
    for _ in range(5):
        pod.launch(argv=["sh", "-c", "while :; do (sleep 0.01 & sleep 0.01 &); done"])
        until("it to fork", lambda: len(pod.processes()) > 3)
        pod.kill()
        assert pod.processes() == []


def test_tree_dies_with_process_1(pods: Any) -> None:
    pod = pods()
    pod.launch(argv=["sleep", "98765"])
    assert _running("98765")
    pod.end()
    until("its end", lambda: not _running("98765"))


def _running(argument: str) -> list[str]:
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if path.read_bytes().split(b"\0")[:2] == [b"sleep", argument.encode()]:
                found.append(path.parent.name)
        except OSError:
            pass
    return found


def test_a_tree_keeps_no_capability_that_criu_needs(pods: Any) -> None:
    """Neither when it was launched nor when it was thawed; nor can a program that it executes get one back."""
    source, other = pods(), pods()
    source.launch()
    source.freeze("image")
    other.thaw("image")
    for pod in (source, other):
        for pid in pod.members():
            masks = pod.sh(f"awk '/^Cap/ {{print $2}}' /proc/{pid}/status").split()
            assert {int(mask, 16) & ~(1 << 1) for mask in masks} == {0}, "DAC_OVERRIDE only"


def test_what_has_capabilities_does_not_heed_the_trees_environment(pods: Any, tmp_path: Path) -> None:
    """A pool writes it: LD_PRELOAD of a file on a claim would run as process 1 does. The loader logs each program of
    the tree's root that it is told to: the one that waits, and not the one before, which gives capabilities up.
    """
    pod = pods()
    log = tmp_path / "loader"
    root = pod.launch(argv=["sleep", "98766"], more={"LD_DEBUG": "files", "LD_DEBUG_OUTPUT": "/run/shared/loader"})
    child = log.with_name(f"{log.name}.{root + 1}")
    until("the program to be loaded", lambda: child.exists() and "initialize program" in child.read_text())
    environment = Path(f"/proc/{_running('98766')[0]}/environ").read_bytes()
    assert b"LD_DEBUG=files" in environment.split(b"\0"), "the program itself has it"
    until(
        "the root to wait", lambda: pod.sh(f"tr '\\0' ' ' < /proc/{root}/cmdline").rstrip().endswith(f"wait {root + 1}")
    )
    of_root = log.with_name(f"{log.name}.{root}")
    until("the root's loader to be done", lambda: of_root.exists() and "transferring control" in of_root.read_text())
    assert of_root.read_text().count("transferring control") == 1
