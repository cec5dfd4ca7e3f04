"""Why a worker ended, as the pool's condition says it: without reading a log."""

from typing import Any

import pytest
from plan.factory import condition, snapshot, spec, starting
from vernal_contract.reasons import NEXT_STEP, Reason
from vernal_operator.plan import plan
from vernal_operator.plan.farewell import farewell
from vernal_operator.plan.model import PodView


def crashed(message: str = "", code: int = 10, reason: str = "Error", **fields: Any) -> PodView:
    return starting(
        restarts=2, running=False, last_exit_code=code, last_exit_reason=reason, last_exit_message=message, **fields
    )


def degraded(pod: PodView) -> str:
    status = plan(snapshot(spec(), pod)).status
    assert status is not None and condition(status, "Degraded")[0] == "True"
    return next(c["message"] for c in status["conditions"] if c["type"] == "Degraded")


WORDS = "vLLM does not know the argument --no-such-thing"


def test_the_workers_own_sentence_and_next_step_reach_the_condition() -> None:
    pod = crashed(f"EngineStartFailed: {WORDS}\ncorrect spec.engineArgs\n")
    status = plan(snapshot(spec(), pod)).status
    assert condition(status, "Degraded") == ("True", "EngineStartFailed")
    assert degraded(pod) == f"pod {pod.name}: exit code 10 (Error): {WORDS}: correct spec.engineArgs"


def test_a_sentence_of_several_lines_is_one_and_a_long_one_is_cut() -> None:
    said = farewell(crashed("EngineStartFailed: no room:\n  KV cache needs 9 GiB\nlower max_model_len\n"))
    assert said.sentence == "exit code 10 (Error): no room: KV cache needs 9 GiB"
    assert said.next_step == "lower max_model_len"
    assert len(farewell(crashed(f"EngineStartFailed: {'x' * 4000}\nstep\n")).sentence) < 1100


def test_without_a_next_step_the_contracts_is_told() -> None:
    said = farewell(crashed("EngineDied: killed\n\n", code=12))
    assert (said.reason, said.next_step) == ("EngineDied", NEXT_STEP[Reason.ENGINE_DIED])


def test_who_was_killed_for_memory_is_told_what_to_raise() -> None:
    pod = crashed("the last line of a log: Loading weights", code=137, reason="OOMKilled")
    assert condition(plan(snapshot(spec(), pod)).status, "Degraded") == ("True", "OutOfMemory")
    assert "raise spec.resources.limits.memory" in degraded(pod)


@pytest.mark.parametrize("message", ["", "\n", "a log\nits last line\n", "NoSuchReason: what\nstep\n", ": \n:\n"])
def test_what_no_worker_wrote_is_shown_and_not_believed(message: str) -> None:
    said = farewell(crashed(message, code=1))
    assert said.reason == "Crashing" and said.next_step.startswith("see `kubectl logs ")
    assert said.sentence.startswith("exit code 1 (Error)")
    if "its last line" in message:
        assert said.sentence.endswith(": its last line")
