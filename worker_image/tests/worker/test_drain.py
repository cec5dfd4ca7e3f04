"""How a worker ends, beside what `test_shutdown.py` has of it."""

import os
import re
import signal
from collections.abc import Callable

import pytest
from patience import until
from shutdown.load import WHOLE, Load
from shutdown.ours import CLOSES_SOON, HUNG
from vernal_contract.state import Phase, WorkerState
from vernal_worker.supervisor.exits import ExitCode
from worker_pod import Pod

Thawed = Callable[..., Pod]


def test_the_grace_period_is_kept(thawed: Thawed) -> None:
    """Where the drain's own time-out is longer: what is in flight is aborted before the reserve, and nothing is left
    for a kubelet to kill."""
    pod = thawed(drain={"propagation_seconds": 0.2, "timeout_seconds": 7200.0, "grace_period_seconds": 16.0})
    load = Load(pod, streams=1, plain=1)
    pod.signal()
    code = pod.wait()
    assert code in (ExitCode.OK, *HUNG), pod.log()
    said = re.search(r"event=draining seconds_left=(\S+)", pod.log())
    assert said is not None and float(said[1]) <= 12, "a quarter of 16 s is kept"
    assert code != ExitCode.OK or "event=aborted requests=2" in pod.log()
    assert WHOLE not in load.outcomes()


def test_a_drain_over_http_ends_with_a_signal(thawed: Thawed) -> None:
    pod = thawed(drain=CLOSES_SOON)
    load = Load(pod, streams=1, plain=1)
    assert pod.admin("/drain", "POST")[0] == 202
    assert pod.admin("/readyz")[0] == 503
    pod.wait_log("listener_closed")
    load.release()
    assert load.outcomes() == {WHOLE: 2}

    def drained() -> WorkerState | None:
        state = pod.state()
        return state if state.in_flight == 0 and state.drain and not state.drain.accepting else None

    assert until("an empty worker", drained, more=pod.log).phase is Phase.DRAINING
    assert pod.admin("/livez")[0] == 200
    assert pod.log().count("event=draining ") == 1
    pod.signal()
    assert pod.wait() == ExitCode.OK
    assert pod.log().count("event=draining ") == 2, "it ended because of the signal"


@pytest.mark.parametrize("victim", ["main", "VLLM::Worker"])
def test_a_dead_engine_ends_the_worker(thawed: Thawed, victim: str) -> None:
    pod = thawed()
    name = "vernal_worker.engine.main" if victim == "main" else victim
    (pid,) = [pid for pid, command in pod.processes().items() if name in command]
    os.kill(pid, signal.SIGKILL)
    assert pod.wait() == ExitCode.ENGINE_DIED, pod.log()
    assert "reason=EngineDied" in pod.log()
