"""kill -9 of a worker's processes at random moments: process 1 must end in time, say why, and leave nothing."""

import http.client
import os
import random
import signal
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from patience import GUARD_SECONDS
from vernal_worker.supervisor.exits import ExitCode
from worker_pod import Pod

from shutdown.load import HANGS, Load
from shutdown.ours import BUDGET, StartPod, Thawed, engine_processes, leftovers

DRAIN = BUDGET | {"propagation_seconds": 1.0}
CHECKPOINT = {"policy": "Required", "restore_attempts": 1000}
"""Failed thaws are wanted here: they must not have the checkpoint quarantined."""
PHASES = {"starting": 5, "thawing": 30, "ready": 35, "draining": 30}
"""How often each is drawn, in percent. A cold start takes ten times as long as a thaw."""
LATEST_SECONDS = {"starting": 25.0, "thawing": 2.5, "ready": 1.5, "draining": 3.5}
"""The kill comes up to so many seconds after the phase began. What had happened by then, the log says, and with it what
the worker must do."""

_KINDS = {
    "_exec.py": "root",
    "resource_tracker": "resource tracker",
    "VLLM::EngineCore": "EngineCore",
    "VLLM::Worker": "Worker",
    "vernal_worker.engine.main": "main",
    "criu": "CRIU",
    "multiprocessing": "child of main or EngineCore",
}
"""What a command line says a process is, the first that fits. A child has its name only some time after its start."""
DISPENSABLE = frozenset({"resource tracker", "helper"})
"""Without these the engine goes on."""


@dataclass(frozen=True)
class Kill:
    """One kill. `problem`: what was not as it must be."""

    phase: str
    victim: str
    code: int
    seconds: float  # until process 1 ended
    problem: str | None


@dataclass
class Report:
    kills: list[Kill] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        return bool(self.kills) and not any(kill.problem for kill in self.kills)

    def render(self) -> str:
        groups: dict[tuple[str, str], list[Kill]] = defaultdict(list)
        for kill in self.kills:
            groups[kill.phase, kill.victim].append(kill)
        lines = [f"{'PHASE':10}{'KILLED':30}{'TIMES':>6}  {'SLOWEST EXIT s':>14}  EXIT CODES"]
        for (phase, victim), kills in sorted(groups.items()):
            codes = sorted({kill.code for kill in kills})
            named = ", ".join(f"{sum(k.code == code for k in kills)} x {code}" for code in codes)
            lines.append(f"{phase:10}{victim:30}{len(kills):6}  {max(k.seconds for k in kills):14.1f}  {named}")
        bad = [kill for kill in self.kills if kill.problem]
        good = len(self.kills) - len(bad)
        lines.append(f"\n{good} of {len(self.kills)} ended in time, with the right code, and left nothing")
        lines += [f"  {k.phase}, {k.victim}, exit {k.code} after {k.seconds:.1f} s: {k.problem}" for k in bad]
        return "\n".join(lines)


def run(
    thawed: Thawed, start: StartPod, store: Path, count: int, seed: int, say: Callable[[str], None] | None = None
) -> Report:
    """`count` workers, each of which loses one process."""
    draw, report = random.Random(seed), Report()
    for number in range(1, count + 1):
        phase = draw.choices(list(PHASES), list(PHASES.values()))[0]
        try:
            report.kills.append(one(thawed, start, store, phase, draw))
        except KeyboardInterrupt:
            break  # what was seen so far counts
        last = report.kills[-1]
        if say is not None and (number % 10 == 0 or last.problem):
            say(f"  {number} of {count}" + (f": {last}" if last.problem else ""))
    return report


def one(thawed: Thawed, start: StartPod, store: Path, phase: str, draw: random.Random) -> Kill:
    """One worker in `phase`, one of its processes killed."""
    load: Load | None = None
    if phase == "starting":
        pod = start(store, checkpoint={"policy": "Disabled"}, drain=DRAIN)
        pod.wait_log("event=engine_start")
    elif phase == "thawing":
        pod = start(store, checkpoint=CHECKPOINT, drain=DRAIN)
        pod.wait_log("phase=Thawing")
    else:
        pod = thawed(checkpoint=CHECKPOINT, drain=DRAIN)
        load = Load(pod, streams=2, plain=1, tokens=draw.randint(50, 900), hold=False)
    with leftovers(pod) as left:
        if phase == "draining":
            pod.signal()
        time.sleep(draw.uniform(0, LATEST_SECONDS[phase]))
        victim = _kill(pod, draw)
        began = time.monotonic()
        if phase != "draining" and victim in DISPENSABLE and _still_serves(pod):
            began = time.monotonic()
            pod.signal()
        try:
            code = pod.wait()
            problem = _judge(code, phase, victim, pod.log())
        except AssertionError:
            code, problem = -1, f"no exit within {GUARD_SECONDS:.0f} s; see {pod.log_path}"
        seconds = time.monotonic() - began
        if problem is None and left():
            problem = f"left: {left()}"
        if problem is None and load is not None and HANGS in load.outcomes():
            problem = "a client hangs"
    pod.end()
    return Kill(phase, victim, code, seconds, problem)


def _kill(pod: Pod, draw: random.Random) -> str:
    """Kill one of the processes there are; "nothing" if the worker has none any more."""
    deadline = time.monotonic() + GUARD_SECONDS
    while pod.alive() and time.monotonic() < deadline:
        try:
            there = engine_processes(pod)
        except (AssertionError, OSError):
            break  # it just ended
        if not there:
            time.sleep(0.01)
            continue
        pid = draw.choice(sorted(there))
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue
        return next((kind for text, kind in _KINDS.items() if text in there[pid]), "helper")
    return "nothing"


def _still_serves(pod: Pod) -> bool:
    """Whether it becomes ready, and answers; not if it ends first, as a thaw does that lost a helper of CRIU."""
    deadline = time.monotonic() + GUARD_SECONDS
    while pod.alive() and time.monotonic() < deadline:
        try:
            if pod.admin("/readyz")[0] == 200:
                pod.complete(max_tokens=4)
                return True
        except (OSError, AssertionError, http.client.HTTPException):
            pass
        time.sleep(0.1)
    return False


def _judge(code: int, phase: str, victim: str, log: str) -> str | None:
    """None if `code` is right."""
    if "engine_stopping" in log:  # everything was answered: nothing is lost any more
        right = {ExitCode.OK, ExitCode.ENGINE_HUNG}
    elif victim in DISPENSABLE or victim == "nothing":
        right = {ExitCode.OK, ExitCode.ENGINE_START_FAILED, ExitCode.THAW_REQUIRED}
        if "phase=Ready" in log:
            right = {ExitCode.OK}
    elif "phase=Ready" in log:
        right = {ExitCode.ENGINE_DIED}
    else:
        right = {ExitCode.THAW_REQUIRED if phase == "thawing" else ExitCode.ENGINE_START_FAILED}
        if phase == "thawing":
            right.add(ExitCode.ENGINE_DIED)  # between the thaw's last check and the first request
    if code not in right:
        return f"exit {code} instead of {' or '.join(str(int(each)) for each in sorted(right))}"
    if code != 0 and "event=exit" not in log:
        return "the log does not say why"
    return None
