"""How a worker ends, beside what `test_shutdown.py` has of it."""

import os
import signal
import time
from collections.abc import Callable

import pytest
from vernal_contract.state import Phase
from vernal_worker.supervisor.exits import ExitCode
from worker_pod import Pod

Thawed = Callable[..., Pod]
PATIENT = {"propagation_seconds": 1.0, "timeout_seconds": 300.0, "grace_period_seconds": 400.0}
LONG = {"prompt": "A worker that has served before", "max_tokens": 300}


def test_the_grace_period_is_kept(thawed: Thawed) -> None:
    pod = thawed(drain={"propagation_seconds": 0.2, "timeout_seconds": 60.0, "grace_period_seconds": 16.0})
    stream = pod.stream(**LONG)
    began = time.monotonic()
    pod.signal()
    assert pod.wait() in (ExitCode.OK, ExitCode.ENGINE_HUNG), pod.log()  # a busy machine exits slowly
    assert time.monotonic() - began < 16.0
    stream.rest()


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


@pytest.mark.parametrize("victim", ["main", "VLLM::Worker"])
def test_a_dead_engine_ends_the_worker(thawed: Thawed, victim: str) -> None:
    pod = thawed()
    name = "vernal_worker.engine.main" if victim == "main" else victim
    (pid,) = [pid for pid, command in pod.processes().items() if name in command]
    os.kill(pid, signal.SIGKILL)
    assert pod.wait() == ExitCode.ENGINE_DIED, pod.log()
    assert "reason=EngineDied" in pod.log()
