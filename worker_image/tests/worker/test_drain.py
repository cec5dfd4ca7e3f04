"""How a worker ends: what was accepted is answered, inside the grace period, and nothing is left behind."""

import json
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from thaw_contract.state import Phase
from thaw_worker.supervisor.exits import ExitCode
from worker_pod import Pod

Thawed = Callable[..., Pod]
PATIENT = {"propagation_seconds": 1.0, "timeout_seconds": 300.0, "grace_period_seconds": 400.0}
LONG = {"prompt": "A worker that has served before", "max_tokens": 300}


def test_a_long_stream_arrives_whole(creator: Pod, thawed: Thawed) -> None:
    pod = thawed(drain=PATIENT)
    expected, _ = creator.stream(**LONG).rest()
    idle = pod.http()
    idle.request("GET", "/v1/models")
    idle.getresponse().read()
    stream = pod.stream(**LONG)
    events = stream.events()
    next(events)
    pod.signal()
    pod.wait_log("event=draining")
    # Not ready at once, still accepting while that spreads, then the listener is closed.
    assert pod.admin("/readyz")[0] == 503 and pod.ask("GET", "/health")[0] == 503
    assert len(pod.complete(max_tokens=1)) > 0
    pod.wait_log("listener_closed")
    with pytest.raises(ConnectionRefusedError):
        pod.connect(8000)
    state = pod.state()
    if state.in_flight:  # the stream is still on its way: so is process 1
        assert state.phase is Phase.DRAINING and state.drain is not None and not state.drain.accepting
        idle.request("GET", "/v1/models")
        refusal = idle.getresponse()
        assert refusal.status == 503 and refusal.headers["Retry-After"]
    text, rest = stream.rest()
    assert rest == ["[DONE]"] and expected.endswith(text) and len(text) > len(expected) * 0.9
    shm = os.open(f"/proc/{pod.init}/root/dev/shm", os.O_RDONLY)  # stays in reach when the pod is gone
    assert pod.wait() == ExitCode.OK, pod.log()
    assert list(Path(f"/proc/self/fd/{shm}").iterdir()) == []
    os.close(shm)


def test_what_does_not_finish_in_time_ends_with_an_error(thawed: Thawed) -> None:
    pod = thawed(drain={"propagation_seconds": 0.2, "timeout_seconds": 0.5})
    streams = [pod.stream(**LONG) for _ in range(8)]
    pod.signal()
    for stream in streams:
        _, rest = stream.rest()
        if rest != ["[DONE]"]:
            assert json.loads(rest[0])["error"]["code"] == 503 and rest[1] == "[DONE]"
    assert pod.wait() == ExitCode.OK, pod.log()
    assert "event=aborted" in pod.log()


def test_the_grace_period_is_kept(thawed: Thawed) -> None:
    pod = thawed(drain={"propagation_seconds": 0.2, "timeout_seconds": 60.0, "grace_period_seconds": 16.0})
    stream = pod.stream(**LONG)
    began = time.monotonic()
    pod.signal()
    assert pod.wait() == ExitCode.OK, pod.log()
    assert time.monotonic() - began < 16.0
    stream.rest()


def test_a_third_signal_stops_at_once(thawed: Thawed) -> None:
    pod = thawed(drain={"propagation_seconds": 30.0})
    for count in range(3):
        pod.signal(signal.SIGINT if count else signal.SIGTERM)
        time.sleep(0.2)
    began = time.monotonic()
    assert pod.wait() == ExitCode.STOPPED_AT_ONCE
    assert time.monotonic() - began < 5


def test_a_drain_over_http_ends_with_a_signal(thawed: Thawed) -> None:
    pod = thawed(drain=PATIENT)
    stream = pod.stream(**LONG)
    assert pod.admin("/drain", "POST")[0] == 202
    assert pod.admin("/readyz")[0] == 503
    assert stream.rest()[1] == ["[DONE]"]
    pod.wait_log("listener_closed")
    time.sleep(1)
    state = pod.state()
    assert state.phase is Phase.DRAINING and state.in_flight == 0
    assert pod.admin("/livez")[0] == 200
    pod.signal()
    assert pod.wait() == ExitCode.OK


@pytest.mark.parametrize("victim", ["main", "VLLM::EngineCore", "VLLM::Worker"])
def test_a_dead_engine_ends_the_worker(thawed: Thawed, victim: str) -> None:
    pod = thawed()
    name = "thaw_worker.engine.main" if victim == "main" else victim
    (pid,) = [pid for pid, command in pod.processes().items() if name in command]
    os.kill(pid, signal.SIGKILL)
    assert pod.wait() == ExitCode.ENGINE_DIED, pod.log()
    assert "reason=EngineDied" in pod.log()


def test_a_signal_during_the_thaw(creator: Pod, start_pod: Callable[..., Pod], store: Path) -> None:
    pod = start_pod(store)
    pod.wait_log("phase=Thawing")
    pod.signal()
    began = time.monotonic()
    assert pod.wait() == ExitCode.OK, pod.log()
    assert time.monotonic() - began < 10
    assert "phase=Ready" not in pod.log()
