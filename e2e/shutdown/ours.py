"""What a worker of Vernal does when it is told to stop. Each scenario takes a function that thaws workers."""

import contextlib
import http.client
import json
import os
import re
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from vernal_contract import names
from vernal_worker.supervisor.exits import ExitCode
from worker_pod import HOLD_CRIU, Pod

from shutdown.load import HANGS, WHOLE, Load, tell
from shutdown.promises import Findings

Thawed = Callable[..., Pod]
"""Starts a worker with the settings that are given, waits until it is ready."""

StartPod = Callable[..., Pod]
"""Starts a worker on a store."""

BUDGET = {"timeout_seconds": 7200.0, "grace_period_seconds": 14400.0}
"""More than anything here takes: with it, nothing ends because its time is over."""
CLOSES_SOON = BUDGET | {"propagation_seconds": 0.2}
CLOSES_LATE = BUDGET | {"propagation_seconds": 3600.0}
SHORT = {"propagation_seconds": 0.2, "timeout_seconds": 0.8}
"""What is held exceeds this budget."""
ABORTED = {"error 503 in the stream": 4, "HTTP 503": 2}
"""Of a load of four streams and two plain requests."""
HUNG = (ExitCode.ENGINE_HUNG, ExitCode.OUT_OF_TIME)
"""OUT_OF_TIME where even the killing takes longer than the reserve: process 1 ends all the same."""


def idle(thawed: Thawed, found: Findings) -> None:
    pod = thawed(drain=CLOSES_SOON)
    pod.complete()
    with leftovers(pod) as left:
        seconds, code = _stop(pod)
        found.add("idle", code == 0, f"exit {code} after {seconds:.1f} s (propagationSeconds 0.2)")
        found.add("clean", left() == [], f"after an idle exit: {left() or 'nothing left'}")


def under_load(thawed: Thawed, found: Findings) -> None:
    """The end of a drain: the listener closes, what is in flight runs to its end, the exit is in order."""
    pod = thawed(drain=CLOSES_SOON)
    kept = _used(pod)
    load = Load(pod)
    with leftovers(pod) as left:
        pod.signal()
        pod.wait_log("event=listener_closed")
        found.add("closed", *_closed(pod, kept))
        load.release()
        outcomes = load.outcomes()
        found.add("finish", outcomes == {WHOLE: len(load.asked)}, tell(outcomes))
        code = pod.wait()
        found.add("exit", code == 0, f"exit {code}")
        ended = re.search(r"event=engine_stopped exit_code=(\S+)", pod.log())
        found.add("clean", left() == [] and ended is not None and ended[1] == "0",
                  f"after a drain: engine exit {ended and ended[1]}, {left() or 'nothing left'}")  # fmt: skip


def signals_to_all(thawed: Thawed, found: Findings) -> None:
    """SIGINT as from a terminal: to every process of the container, whatever its group."""
    pod = thawed(drain=CLOSES_SOON)
    load = Load(pod, streams=3, plain=1)
    for pid in sorted(pod.processes(), reverse=True):
        for number in (signal.SIGTERM, signal.SIGINT) if pid != pod.init else (signal.SIGINT,):
            os.kill(pid, number)
    pod.wait_log("event=listener_closed")
    load.release()
    outcomes = load.outcomes()
    found.add("group", outcomes == {WHOLE: 4}, f"SIGTERM and SIGINT to each process: {tell(outcomes)}")
    code = pod.wait()
    found.add("sigint", code == 0, f"drains, exit {code}")


def out_of_budget(thawed: Thawed, found: Findings) -> None:
    pod = thawed(drain=SHORT)
    load = Load(pod)
    with leftovers(pod) as left:
        seconds, code = _stop(pod)
        outcomes = load.outcomes()
        good = code == 0 and _aborted(pod, outcomes)
        found.add("bounded", good, f"{tell(outcomes)}; exit {code} after {seconds:.1f} s")
        found.add("clean", left() == [], f"after aborts: {left() or 'nothing left'}")


def more_signals(thawed: Thawed, found: Findings) -> None:
    """Two workers: one gets two signals, and is looked at between them; the other three."""
    pod = thawed(drain=CLOSES_LATE)
    load = Load(pod)
    began = time.monotonic()
    pod.signal()
    pod.wait_log("event=draining")
    seconds, seen = _observed(pod, began, in_flight=len(load.asked))
    text = seen if isinstance(seen, str) else (
        f"/health and /readyz 503, {seen['seconds_left']:.0f} s left, {seen['in_flight']} in flight, as in "
        "/state and /metrics"
    )  # fmt: skip
    found.add("observable", not isinstance(seen, str), f"after {seconds:.2f} s: {text}")
    answer = pod.ask("POST", "/v1/completions", {"model": "tiny", "prompt": "x", "max_tokens": 1})[0]
    found.add("straggling", answer == 200, f"HTTP {answer} within propagationSeconds")
    pod.signal(signal.SIGINT)
    seconds, code = _wait(pod)
    outcomes = load.outcomes()
    good = code == 0 and _aborted(pod, outcomes) and "event=hurry" in pod.log()
    found.add("second", good, f"exit {code} {seconds:.1f} s after it (5 s at most for requests): {tell(outcomes)}")

    pod = thawed(drain=CLOSES_LATE)
    load = Load(pod, plain=0)
    pod.signal()
    pod.wait_log("event=draining")
    os.kill(pod.init, signal.SIGSTOP)  # until both are there: after the second alone, requests have only 5 s
    for number in (signal.SIGTERM, signal.SIGINT):
        pod.signal(number)
    os.kill(pod.init, signal.SIGCONT)
    seconds, code = _wait(pod)
    outcomes = load.outcomes()
    good = code == ExitCode.STOPPED_AT_ONCE and outcomes.keys().isdisjoint({WHOLE, HANGS})
    found.add("third", good, f"exit {code} {seconds:.1f} s after it; {tell(outcomes)}")


def engine_dies(thawed: Thawed, found: Findings) -> None:
    pod = thawed()
    load = Load(pod, streams=3, plain=1)
    with leftovers(pod) as left:
        os.kill(process(pod, "VLLM::EngineCore"), signal.SIGKILL)
        seconds, code = _wait(pod)
        outcomes = load.outcomes()
        good = code == ExitCode.ENGINE_DIED and outcomes.keys().isdisjoint({WHOLE, HANGS})
        found.add("died", good, f"EngineCore killed: exit {code} after {seconds:.1f} s, {tell(outcomes)}")
        found.add("clean", left() == [], f"after its death: {left() or 'nothing left'}")


def engine_hangs(thawed: Thawed, found: Findings) -> None:
    """All of its processes stand still under load, then SIGTERM comes."""
    pod = thawed(drain=SHORT)
    load = Load(pod, streams=3, plain=1)
    for pid in engine_processes(pod):
        os.kill(pid, signal.SIGSTOP)
    seconds, code = _stop(pod)
    outcomes = load.outcomes()
    good = code in HUNG and outcomes.keys().isdisjoint({WHOLE, HANGS})
    found.add("hung", good, f"all its processes stopped: exit {code} after {seconds:.1f} s, {tell(outcomes)}")


def engine_does_not_exit(thawed: Thawed, found: Findings) -> None:
    """EngineCore stands still while there is nothing to do, so that only the exit is in its way."""
    pod = thawed(drain=SHORT)
    pod.complete()
    os.kill(process(pod, "VLLM::EngineCore"), signal.SIGSTOP)
    with leftovers(pod) as left:
        seconds, code = _stop(pod)
        good = code in (ExitCode.OK, *HUNG)
        found.add("stuck", good, f"EngineCore stopped: exit {code} after {seconds:.1f} s")
        found.add("clean", left() == [], f"after it was killed: {left() or 'nothing left'}")


def signal_in_thaw(start_pod: StartPod, store: Path, found: Findings) -> None:
    before = contents(store)
    pod = start_pod(store, setup=HOLD_CRIU)
    pod.wait_criu()
    seconds, code = _stop(pod)
    good = code == 0 and "phase=Thawing" in pod.log() and "phase=Ready" not in pod.log() and contents(store) == before
    found.add("starting", good, f"in a thaw: exit {code} after {seconds:.1f} s, the store is as it was")


SCENARIOS: tuple[Callable[[Thawed, Findings], None], ...] = (
    idle,
    under_load,
    signals_to_all,
    out_of_budget,
    more_signals,
    engine_dies,
    engine_hangs,
    engine_does_not_exit,
)


# --- looking ---


def _stop(pod: Pod) -> tuple[float, int]:
    pod.signal()
    return _wait(pod)


def _wait(pod: Pod) -> tuple[float, int]:
    """Seconds until the exit, and the exit code."""
    began = time.monotonic()
    code = pod.wait()
    return time.monotonic() - began, code


def _aborted(pod: Pod, outcomes: dict[str, int]) -> bool:
    """Whether all six were aborted, each with an answer, but for those of which the worker says that their clients were
    too slow to take it."""
    said = re.search(r"event=aborted requests=6 reset=(\d+)", pod.log())
    answered = sum(min(outcomes.get(name, 0), count) for name, count in ABORTED.items())
    return said is not None and answered >= max(1, 6 - int(said[1])) and outcomes.keys().isdisjoint({WHOLE, HANGS})


def engine_processes(pod: Pod) -> dict[int, str]:
    """All processes of a pod but process 1, by PID on this machine."""
    return {pid: command for pid, command in pod.processes().items() if pid != pod.init}


def process(pod: Pod, name: str) -> int:
    """The one process whose command line has `name` in it."""
    (pid,) = [pid for pid, command in pod.processes().items() if name in command]
    return pid


@contextlib.contextmanager
def leftovers(pod: Pod) -> Iterator[Callable[[], list[str]]]:
    """Yields a function that says which files of a pod's engine exist; it works when the pod is gone, too."""
    places = ["/dev/shm", f"{names.PATH_RUN}/tmp", f"{names.PATH_RUN}/cache", names.PATH_RUN, "/tmp"]
    open_places = {place: os.open(f"/proc/{pod.init}/root{place}", os.O_RDONLY) for place in places}
    before = set(_names(open_places["/tmp"]))

    def left() -> list[str]:
        found = []
        for place, fd in open_places.items():
            for name in _names(fd):
                own = place == names.PATH_RUN and name in ("tmp", "cache", "criu", "shm-before")  # empty, logs, a note
                if not own and not (place == "/tmp" and name in before):
                    found.append(f"{place}/{name}")
        return found

    try:
        yield left
    finally:
        for fd in open_places.values():
            os.close(fd)


def _names(directory: int) -> list[str]:
    return [path.name for path in Path(f"/proc/self/fd/{directory}").iterdir()]


def contents(store: Path) -> set[str]:
    """Its files: a directory stays for whoever comes next."""
    return {str(path.relative_to(store)) for path in store.rglob("*") if path.is_symlink() or not path.is_dir()}


def _used(pod: Pod) -> http.client.HTTPConnection:
    """An open connection that has had an answer; pods keep those open for as long as a test may take."""
    connection = pod.http()
    connection.request("GET", "/version")
    connection.getresponse().read()
    return connection


def _observed(pod: Pod, began: float, in_flight: int) -> tuple[float, dict[str, Any] | str]:
    """What /health says while the worker drains, or how it and the admin port disagree."""
    ready, why = pod.admin("/readyz")
    seconds = time.monotonic() - began
    state = pod.state()
    status, body = pod.ask("GET", "/health")
    told: dict[str, Any] = json.loads(body)
    if (ready, status) != (503, 503):
        return seconds, f"/readyz {ready}, /health {status}"
    if b"in flight" not in why or "seconds_left" not in told:
        return seconds, f"/readyz says {why!r}, /health {told}"
    left = state.drain.seconds_left if state.drain is not None else 0.0
    # The engine counts down from what it was told, which is what was logged. A tenth: /health rounds.
    logged = re.search(r"event=draining seconds_left=(\S+)", pod.log())
    most = float(logged[1]) if logged else 0.0
    if state.drain is None or not state.drain.accepting or not 0 < told["seconds_left"] <= most + 0.1:
        return seconds, f"/state says {state.drain}, /health {told}, the log {most} s"
    if left > CLOSES_LATE["propagation_seconds"] + CLOSES_LATE["timeout_seconds"]:
        return seconds, f"/state says {state.drain}, the budget is {CLOSES_LATE}"
    if told["in_flight"] != in_flight or "vernal_worker_draining 1.0" not in pod.admin("/metrics")[1].decode():
        return seconds, f"/health says {told}"
    return seconds, told


def _closed(pod: Pod, kept: http.client.HTTPConnection) -> tuple[bool, str]:
    try:
        pod.connect(names.PORT_SERVING).close()
        connecting = "accepted"
    except ConnectionRefusedError:
        connecting = "refused"
    try:
        kept.request("GET", "/v1/models")
        answer = kept.getresponse()
        headers = {name: answer.headers[name] for name in ("Retry-After", "Connection")}
        answered = f"HTTP {answer.status}, Retry-After {headers['Retry-After']}, Connection {headers['Connection']}"
        good = answer.status == 503 and headers["Retry-After"] is not None and headers["Connection"] == "close"
    except (OSError, http.client.HTTPException) as error:
        answered, good = repr(error), False
    return good and connecting == "refused", f"a new connection is {connecting}; on an open one {answered}"
