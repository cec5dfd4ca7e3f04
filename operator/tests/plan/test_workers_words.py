"""Workers' words at their worst: long, odd, late, or the last that they will say."""

from dataclasses import replace

import pytest
from plan.factory import NOW, condition, failed_creator, pending, ready, snapshot, spec, starting, worker
from plan.test_retention import again, failing, seen, use
from vernal_contract.state import FreezeOutcome, FreezeReport, Phase, WorkerState
from vernal_operator.api.status import Condition
from vernal_operator.plan import plan, plan_checkpoint
from vernal_operator.plan.model import ContainerView


def test_a_worker_that_was_drained_by_hand_is_replaced() -> None:
    """`POST /drain`: it does not come back, and it is nobody's to wait for."""
    drained = starting(0, worker=worker(phase=Phase.DRAINING, ready=False))
    done = plan(snapshot(spec(replicas=2), drained, ready(1)))
    assert [(pod.name, pod.reason) for pod in done.delete] == [(drained.name, "Drained")]
    assert len(done.create) == 1


def test_one_that_drains_and_is_ready_still_is_left_alone() -> None:
    """Kubernetes has not heard yet; what it was asked a moment ago is no reason to delete a pod that serves."""
    serving = ready(0, worker=worker(phase=Phase.DRAINING, ready=True))
    assert not plan(snapshot(spec(replicas=1), serving)).delete


def test_workers_of_a_pool_that_makes_no_sense_are_asked() -> None:
    """Else no checkpoint of the namespace could go after a restart: whose they are is not known."""
    broken = snapshot(spec(), starting(0, polled_at=None))
    broken = replace(broken, pool=replace(broken.pool, spec=None, spec_error="spec.x: no"))
    assert plan(broken).poll == {broken.pods[0].name}


@pytest.mark.parametrize("reason", ["no word at all!", "x" * 2000, "", "ends:"])
def test_no_answer_makes_a_status_that_is_refused(reason: str) -> None:
    report = FreezeReport(outcome=FreezeOutcome.FAILED, reason=reason, message="ü" * 40000)
    state = failed_creator(freeze=report, start_message="y" * 40000, start_reason=reason, last_error="z" * 40000)
    crashed = starting(1, restarts=3, last_exit_code=1, last_exit_message=f"{reason}: {'w' * 40000}\n{'v' * 40000}\n")
    for status in (
        plan(snapshot(spec(), ready(0, worker=state))).status,
        plan(snapshot(spec(), crashed)).status,
        plan(snapshot(spec(), starting(0, worker=replace_error(state)))).status,
        plan_checkpoint(seen(use(state))).status,
    ):
        assert status is not None
        for entry in status["conditions"]:
            Condition.model_validate(entry)  # the schema's own pattern and lengths
            assert len(entry["message"]) <= 4096


@pytest.mark.parametrize(
    ("beside", "reason", "words"),
    [
        (ContainerView("weights", "ImagePullBackOff"), "ImagePullFailed", ("ImagePullBackOff", "describe pod")),
        (ContainerView("weights", "CreateContainerConfigError"), "ContainerConfigInvalid", ("describe pod",)),
        (
            ContainerView("weights", "CrashLoopBackOff", 4, 3, "Error", "a\nno such bucket\n"),
            "Crashing",
            ("exit code 3 (Error)", "no such bucket", "-c weights --previous"),
        ),
        (ContainerView("weights", "", 0, 3, "Error"), "Crashing", ("exit code 3",)),
        (ContainerView("weights", "", 1, 137, "OOMKilled"), "OutOfMemory", ("spec.podTemplate",)),
    ],
)
def test_what_is_wrong_beside_the_worker_is_told_at_once(
    beside: ContainerView, reason: str, words: tuple[str, ...]
) -> None:
    for pod in (pending(0, scheduled=True, waiting_reason="PodInitializing"), starting(0)):
        status = plan(snapshot(spec(), replace(pod, created=NOW - 1, beside=beside))).status
        assert condition(status, "Degraded") == ("True", reason)
        [message] = [c["message"] for c in (status or {})["conditions"] if c["type"] == "Degraded"]
        assert f"pod {pod.name}: container weights: " in message
        assert all(word in message for word in words), message


def replace_error(state: WorkerState) -> WorkerState:
    state.ready, state.phase = False, Phase.STARTING
    return state


def test_a_start_is_counted_once_whatever_number_of_restarts_it_is_asked_under() -> None:
    """Asked a moment after a restart that was not seen yet, then again: one failure must not count as two."""
    state = failing()
    state.start_id = "a1"
    early = seen(use(state, "pod", restarts=0))
    counted = again(early, plan_checkpoint(early))
    late = replace(counted, workers=(use(state, "pod", restarts=1),))
    done = plan_checkpoint(late)
    status = counted.checkpoint.status if done.status is None else done.status
    assert status["restoreFailures"] == 1
    assert condition(dict(status), "Quarantined") == ("False", "AsExpected")


def test_two_starts_count_twice() -> None:
    first, second = failing(), failing()
    first.start_id, second.start_id = "a1", "a2"
    early = seen(use(first, "pod", restarts=0))
    counted = again(early, plan_checkpoint(early))
    status = plan_checkpoint(replace(counted, workers=(use(second, "pod", restarts=1),))).status
    assert status is not None and status["restoreFailures"] == 2
