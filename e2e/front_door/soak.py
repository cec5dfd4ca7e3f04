"""Everything at once against one thawed worker, and what it cost."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from common.progress import say
from shutdown.workers import Workers
from worker_pod import WARM, Pod

from front_door import bad, verdict
from front_door.verdict import Measured, Report

WARM_SECONDS, WARM_PART = 45.0, 1 / 6
"""Of the good and the bad together, before the first measurement (the longer of the two; a part of the minutes): pools,
caches and threads are then as large as they get."""

SAMPLE_SECONDS = 5.0
"""Between two looks at memory."""

QUIET_SECONDS = 600.0
"""Against a hang: until every connection and request of the bad ones is gone."""

FEW_PRIMITIVES = {"ONEDNN_PRIMITIVE_CACHE_CAPACITY": "16"}
"""oneDNN keeps what it has compiled for each shape of a batch, up to 1,024 of them. A soak comes upon new ones
until its end, and plain vLLM's worker grows by 170 MB so; with few of them what else is kept can be seen."""

LAST_STREAMS, LAST_TOKENS = 4, 300
"""What is under way when the worker is told to stop."""

NAMES = {
    "vernal_worker/__main__.py": "supervisor",
    "vernal_worker.engine.main": "API server",
    "EngineCore": "EngineCore",
    "VLLM::Worker": "Worker",
}

Samples = list[tuple[float, dict[str, float]]]


def run(made: Workers, minutes: float) -> Report:
    same: dict[str, Any] = {"checkpoint": WARM, "keep_alive_seconds": 120.0, "engine_env": FEW_PRIMITIVES}
    made.make_checkpoint(setup="ulimit -n 1024", **same)  # as in many containers: a burst may use that up
    say("a worker thaws")
    # Only what is lost ends a request: no time is too short for a slow machine.
    pod = made.thawed(
        drain={"propagation_seconds": 2.0, "timeout_seconds": 600.0, "grace_period_seconds": 660.0}, **same
    )
    report = Report(minutes)
    warming = max(WARM_SECONDS, minutes * 60 * WARM_PART)
    say(f"{warming:.0f} s of warming up, good and bad")
    _together(pod, warming, Report(minutes), [])
    report.before = _at_rest(pod)
    say(f"{minutes:g} minutes, good and bad")
    samples: Samples = []
    _together(pod, minutes * 60, report, samples)
    report.slopes = verdict.slopes(samples)
    say("done; waiting for rest")
    report.after = _at_rest(pod)
    report.closed = [
        line
        for line in pod.ask("GET", "/metrics")[1].decode().splitlines()
        if line.startswith("vernal_http_connections_closed_total")
    ]
    _judge(pod, report, report.before, report.after)
    return report


def _judge(pod: Pod, report: Report, before: Measured, after: Measured) -> None:
    report.problems += verdict.of_the_good(report.good)
    report.problems += verdict.of_the_bad(report.bad, (kind.__name__ for kind in bad.KINDS))
    report.problems += verdict.of_what_is_left(before, after)
    for path in ("/readyz", "/livez"):
        if (status := pod.admin(path)[0]) != 200:
            report.problems.append(f"{path}: {status}")
    say("it is told to stop, under load")
    report.problems += _stop(pod)
    report.problems += verdict.of_the_log(pod.log())


def _stop(pod: Pod) -> list[str]:
    """SIGTERM while requests are under way: they end whole, and so does the worker."""
    streams = [pod.stream(prompt="the last", max_tokens=LAST_TOKENS) for _ in range(LAST_STREAMS)]
    for stream in streams:
        next(stream.events())
    pod.signal()
    ends = [stream.rest()[1] for stream in streams]
    problems = [f"a stream that was under way ended with {end}" for end in ends if end != ["[DONE]"]]
    if (code := pod.wait()) != 0:
        problems.append(f"the worker exited with {code}")
    return problems


def _together(pod: Pod, seconds: float, report: Report, samples: Samples) -> None:
    """The good and the bad for so long; fills in what they say, and what memory was meanwhile.

    Raises:
        RuntimeError: one of them said nothing.
    """
    began = time.monotonic()
    running = {
        kind: subprocess.Popen(
            [sys.executable, "-m", f"front_door.{kind}", str(pod.init), str(seconds)],
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
        )
        for kind in ("good", "bad")
    }
    processes = _processes(pod)
    while any(process.poll() is None for process in running.values()):
        time.sleep(SAMPLE_SECONDS)
        samples.append((time.monotonic() - began, {name: _megabytes(pid) for name, pid in processes.items()}))
    said = {kind: (process.communicate()[0], process.returncode) for kind, process in running.items()}
    for kind, (text, code) in said.items():
        if not text:
            raise RuntimeError(f"front_door.{kind} exited with {code} and said nothing")
        if code != 0:
            report.problems.append(f"front_door.{kind} exited with {code}")
    report.good, report.bad = (json.loads(said[kind][0]) for kind in ("good", "bad"))


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
    found = _processes(pod)
    return Measured(
        {name: _megabytes(pid) for name, pid in found.items()},
        {name: len(list(Path(f"/proc/{pid}/fd").iterdir())) for name, pid in found.items()},
    )


def _processes(pod: Pod) -> dict[str, int]:
    named = [(key, pid) for pid, command in pod.processes().items() for key in NAMES if key in command]
    return {NAMES[key]: pid for key, pid in named}


def _megabytes(pid: int) -> float:
    """Of memory that is not a file's: private, shared and swapped out."""
    fields = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    return sum(float(fields[name].split()[0]) for name in ("RssAnon", "RssShmem", "VmSwap")) * 1024 / 1e6
