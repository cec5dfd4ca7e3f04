"""Choosing steps and conditions, the table, and the limit on the CPU."""

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import anywhere
import pytest
from lanes import Lanes, Result
from patience import until
from quota import NAME, Hierarchy, Quota, QuotaError, hierarchy

LANES = [["unit", "library-tests"], ["lint"]]
HYBRID = """\
tmpfs /sys/fs/cgroup tmpfs rw 0 0
cgroup2 /sys/fs/cgroup/unified cgroup2 rw 0 0
cgroup /sys/fs/cgroup/cpuset cgroup rw,cpuset 0 0
cgroup /sys/fs/cgroup/cpu,cpuacct cgroup rw,cpu,cpuacct 0 0
"""


def test_steps_are_chosen_by_name() -> None:
    assert anywhere.select(LANES, None) == LANES
    assert anywhere.select(LANES, ["library-tests"]) == [["library-tests"]]
    with pytest.raises(ValueError, match=r"--step nonsense.*unit, library-tests, lint"):
        anywhere.select(LANES, ["nonsense"])


def test_the_table_has_a_row_a_step_and_a_column_a_condition() -> None:
    found = {
        "alone": [Result("unit", 0, 1.26), Result("lint", 2, 0.5), Result("unit", 0, 1.5), Result("lint", 0, 0.4)],
        "half": [Result("unit", 0, 3.0), Result("lint", None)],
    }
    assert anywhere.table(["unit", "lint"], found).splitlines() == [
        "STEP  ALONE                          HALF A CORE EACH",
        "unit  passed 2, 1.3 to 1.5 min       passed 3.0 min",
        "lint  FAILED 1 of 2, 0.4 to 0.5 min  not run",
    ]


def test_all_is_good_only_if_each_step_passed_each_time_in_each_condition() -> None:
    passed = [Result("unit", 0), Result("lint", 0)]
    assert anywhere.good(["unit", "lint"], {"alone": passed, "busy": passed}, ["alone", "busy"], 1)
    assert not anywhere.good(["unit", "lint"], {"alone": passed}, ["alone", "busy"], 1)
    assert not anywhere.good(["unit", "lint"], {"alone": passed}, ["alone"], 2)
    assert not anywhere.good(["unit", "lint"], {"alone": [Result("unit", 0), Result("lint", 1)]}, ["alone"], 1)


def test_a_failed_step_stops_the_others_unless_they_are_to_go_on() -> None:
    def command(step: str) -> list[str]:
        return [sys.executable, "-c", f"raise SystemExit({int(step == 'bad')})"]

    def statuses(keep_going: bool) -> tuple[int, list[int | None]]:
        lanes = Lanes(command, keep_going=keep_going)
        return lanes.run([["bad", "good"]]), [result.status for result in lanes.results]

    assert statuses(keep_going=False) == (1, [1, None])
    assert statuses(keep_going=True) == (1, [1, 0])


def test_which_hierarchy_limits_the_cpu() -> None:
    assert hierarchy(HYBRID) == Hierarchy(Path("/sys/fs/cgroup/cpu,cpuacct"), 1)
    assert hierarchy("cgroup2 /sys/fs/cgroup cgroup2 rw 0 0\n") == Hierarchy(Path("/sys/fs/cgroup"), 2)
    with pytest.raises(QuotaError, match="cpu controller"):
        hierarchy("tmpfs /sys/fs/cgroup tmpfs rw 0 0\n")


@pytest.mark.parametrize("version", [1, 2])
def test_a_limit_is_written_in_the_words_of_its_version(tmp_path: Path, version: int) -> None:
    found = Hierarchy(tmp_path, version)
    found.write(tmp_path, 0.5)
    assert found.read(tmp_path) == 0.5
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == (
        {"cpu.max": "50000 100000"} if version == 2 else {"cpu.cfs_period_us": "100000", "cpu.cfs_quota_us": "50000"}
    )
    found.write(tmp_path, None)
    assert found.read(tmp_path) is None


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root: it makes cgroups")
def test_what_a_step_starts_is_under_the_limit_and_no_group_is_left() -> None:
    try:
        with Quota(0.5) as quota:
            top = quota.top
            process = subprocess.Popen(
                quota.enter("step", ["sh", "-c", "sleep infinity & echo $!; wait"]), stdout=subprocess.PIPE, text=True
            )
            assert process.stdout is not None
            child = process.stdout.readline().strip()
            assert quota.hierarchy.read(top / "step") == 0.5
            assert {child, str(process.pid)} <= set((top / "step/cgroup.procs").read_text().split())
    except QuotaError as error:
        pytest.skip(f"this machine's cgroups may not be written to: {error}")
    assert not top.exists()
    assert child in (quota.hierarchy.root / "cgroup.procs").read_text().split(), "it goes on without a limit"
    os.kill(int(child), signal.SIGKILL)
    process.wait()


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root: it makes cgroups")
def test_groups_of_a_run_that_was_killed_are_removed_and_no_others() -> None:
    with subprocess.Popen(["true"]) as process:
        pass
    try:
        with Quota(0.5) as mine:
            dead = mine.hierarchy.root / f"{NAME}{process.pid}"
            (dead / "step").mkdir(parents=True)
            mine.enter("step", [])
            other = Quota(0.5, mine.hierarchy)
            other.top = mine.hierarchy.root / f"{NAME}{os.getppid()}"
            with other:
                assert not dead.exists() and (mine.top / "step").exists()
    except QuotaError as error:
        pytest.skip(f"this machine's cgroups may not be written to: {error}")


def test_after_an_interrupt_nothing_more_is_started() -> None:
    lanes = Lanes(lambda step: [sys.executable, "-c", "import time; print(1, flush=True); time.sleep(3600)"])

    def interrupt() -> None:
        _wait_running(lanes)
        os.kill(os.getpid(), signal.SIGINT)

    out = threading.Thread(target=interrupt)
    out.start()
    assert lanes.run([["first", "second"]]) == 1
    out.join()
    assert lanes.interrupted
    assert [(each.step, each.status is None) for each in lanes.results] == [("first", False), ("second", True)]


def _wait_running(lanes: Lanes) -> None:
    until("a step to run", lambda: bool(lanes._running))
