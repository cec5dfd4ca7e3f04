"""Everything at once against one thawed worker, and what it cost."""

import json
import os
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from common.progress import say
from shutdown.workers import Workers
from worker_pod import Pod

WARM_SECONDS = 45.0
"""Of the good and the bad together, before the first measurement: pools, caches and threads are then as large as they
get."""

QUIET_SECONDS = 600.0
"""Against a hang: until every connection and request of the bad ones is gone."""

MEMORY_GROWTH = 1.15


@dataclass(frozen=True)
class Measured:
    """Of a worker at rest: MB of memory that is not a file's, and descriptors, by process."""

    megabytes: dict[str, float]
    descriptors: dict[str, int]


@dataclass
class Report:
    minutes: float
    good: dict[str, Any] = field(default_factory=dict)
    bad: dict[str, int] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    before: Measured | None = None
    after: Measured | None = None
    closed: list[str] = field(default_factory=list)

    def render(self) -> str:
        lines = [
            f"{self.minutes:g} minutes; 8 clients: {self.good}",
            f"beside them, how often: {self.bad}",
            *self.closed,
        ]
        if self.before and self.after:
            lines += ["", "| process | MB before | MB after | descriptors before | after |", "|---|---|---|---|---|"]
            for name, size in self.before.megabytes.items():
                lines.append(
                    f"| {name} | {size:.0f} | {self.after.megabytes[name]:.0f} | {self.before.descriptors[name]} "
                    f"| {self.after.descriptors[name]} |"
                )
        return "\n".join([*lines, "", *(self.problems or ["nothing lost, nothing left"])])


def run(made: Workers, minutes: float) -> Report:
    made.make_checkpoint(setup="ulimit -n 1024")  # as in many containers: a burst may use that up
    say("a worker thaws")
    pod = made.thawed(drain={"propagation_seconds": 2.0, "timeout_seconds": 20.0, "grace_period_seconds": 60.0})
    report = Report(minutes)
    say("warming up, good and bad")
    _together(pod, WARM_SECONDS)
    report.before = _at_rest(pod)
    say(f"{minutes:g} minutes, good and bad")
    report.good, report.bad = _together(pod, minutes * 60)
    say("done; waiting for rest")
    report.after = _at_rest(pod)
    report.closed = [
        line
        for line in pod.ask("GET", "/metrics")[1].decode().splitlines()
        if line.startswith("vernal_http_connections_closed_total")
    ]
    _judge(pod, report)
    return report


def _judge(pod: Pod, report: Report) -> None:
    assert report.before and report.after
    outcome = report.good.get("outcome", {})
    report.problems += [f"lost: {what}: {count}" for what, count in outcome.items() if what != "whole"]
    if not outcome.get("whole"):
        report.problems.append("no client got anything")
    for name, size in report.before.megabytes.items():
        if report.after.megabytes[name] > size * MEMORY_GROWTH:
            report.problems.append(f"{name} grew from {size:.0f} to {report.after.megabytes[name]:.0f} MB")
        if report.after.descriptors[name] > report.before.descriptors[name]:
            report.problems.append(f"{name} has more descriptors than before")
    for path in ("/readyz", "/livez"):
        if (status := pod.admin(path)[0]) != 200:
            report.problems.append(f"{path}: {status}")
    for word in ("Traceback", "thread_failed", "restart"):
        if lines := [line for line in pod.log().splitlines() if word in line]:
            report.problems.append(f"{len(lines)} lines with {word!r} in {pod.log_path}, the first: {lines[0]}")
    pod.signal()
    if (code := pod.wait()) != 0:
        report.problems.append(f"the worker exited with {code}")


def _together(pod: Pod, seconds: float) -> tuple[dict[str, Any], dict[str, int]]:
    running = [
        subprocess.Popen(
            [sys.executable, "-m", f"front_door.{kind}", str(pod.init), str(seconds)],
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
        )
        for kind in ("good", "bad")
    ]
    good, bad = (json.loads(process.communicate()[0] or "{}") for process in running)
    return good, bad


def _at_rest(pod: Pod) -> Measured:
    """Once nothing is under way and no connection is open but ours."""
    deadline = time.monotonic() + QUIET_SECONDS
    while True:
        text = pod.ask("GET", "/metrics")[1].decode()
        (line,) = [line for line in text.splitlines() if line.startswith("vernal_http_connections ")]
        if float(line.split()[1]) <= 1 and pod.state().in_flight == 0:
            break
        if time.monotonic() > deadline:
            raise RuntimeError(f"the worker does not come to rest: {line}, {pod.state().in_flight} requests")
        time.sleep(1)
    found = Measured({}, {})
    for pid, command in pod.processes().items():
        name = next((name for key, name in NAMES.items() if key in command), None)
        if name is not None:
            found.megabytes[name] = _anonymous(pid) / 1e6
            found.descriptors[name] = len(list(Path(f"/proc/{pid}/fd").iterdir()))
    return found


NAMES = {
    "-m vernal_worker ": "supervisor",
    "vernal_worker.engine.main": "API server",
    "EngineCore": "EngineCore",
    "VLLM::Worker": "Worker",
}


def _anonymous(pid: int) -> float:
    fields = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    return float(fields["RssAnon"].split()[0]) * 1024
