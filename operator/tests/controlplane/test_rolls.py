"""A roll that cannot work, against a real API server: the pool keeps serving, goes back, and a fixed spec goes on."""

from collections.abc import Callable

import pytest
from common.ports import free_port
from controlplane.cases import Case, condition, fetched, pool
from controlplane.node import SINGLE, UNPULLABLE
from controlplane.scenarios import (
    Step,
    break_image,
    fix_image,
    let_time_be_up,
    lose_a_pod,
    scale_while_broken,
)
from vernal_operator.kinds import PODS, REVISIONS

pytestmark = pytest.mark.apiserver


def go(case: Case, step: Step) -> None:
    case.wait(step.__qualname__, step(case))


def images(case: Case) -> list[str]:
    return sorted(pod["spec"]["containers"][0]["image"] for pod in case.items(PODS))


@pytest.mark.parametrize("killed", [False, True], ids=["", "operator killed before each step"])
def test_a_broken_image(make_case: Callable[..., Case], killed: bool) -> None:
    port = free_port()
    case = make_case(f"--metrics-port={port}")

    def step(then: Step) -> None:
        if killed:
            case.restart()
        go(case, then)

    case.invariants.most = 5
    case.start()
    case.create(pool(replicas=2))
    case.wait_settled(2)
    case.expect(fewest_ready=1)  # the one that is lost
    before = case.get_pool()["status"]["currentRevision"]
    step(break_image)
    step(lose_a_pod)
    assert images(case) == ["worker:1", "worker:1", UNPULLABLE]
    step(scale_while_broken(4))
    assert images(case) == ["worker:1"] * 4 + [UNPULLABLE]
    found = case.get_pool()
    assert condition(found, "Ready") == "True" and condition(found, "Degraded") == "True"
    step(let_time_be_up(4))
    assert images(case) == ["worker:1"] * 4
    case.assert_quiet(5)
    status = case.get_pool()["status"]
    assert status["currentRevision"] == before != status["updateRevision"] == status["rejected"]["revision"]
    told = {c["type"]: (c["status"], c["reason"]) for c in status["conditions"]}
    assert told["Ready"] == ("True", "AllReady")
    assert told["Degraded"] == ("True", "ProgressDeadlineExceeded")
    assert told["Progressing"] == ("False", "ProgressDeadlineExceeded")
    sample = f'vernal_operator_rollbacks_total{{namespace="{case.namespace}",pool="pool"}} 1.0'
    case.wait(sample, lambda: sample in fetched(f"http://127.0.0.1:{port}/metrics"))
    event = case.wait_event("ProgressDeadlineExceeded")
    assert event["type"] == "Warning" and "ImagePullBackOff" in event["note"] and "revert it" in event["note"]
    step(fix_image(4))
    assert images(case) == ["worker:3"] * 4
    kept = sorted(
        (item["revision"], item["metadata"]["labels"]["vernal.dev/revision"]) for item in case.items(REVISIONS)
    )
    status = case.get_pool()["status"]
    assert [number for number, _ in kept] == [1, 2, 3]
    assert kept[0][1] == before and kept[2][1] == status["currentRevision"] == status["updateRevision"]
    case.invariants.check()


def test_an_image_of_which_only_the_first_pod_works(case: Case) -> None:
    def serve(ready: int, *wanted: str) -> None:
        def probe() -> bool:
            pods = [pod for pod in case.items(PODS) if "deletionTimestamp" not in pod["metadata"]]
            return images(case) == sorted(wanted) and sum(condition(pod, "Ready") == "True" for pod in pods) == ready

        case.wait(f"{ready} of {wanted} to serve", probe)

    case.invariants.most = 4
    case.start()
    case.create(pool(replicas=3))
    case.wait_settled(3)
    case.expect(fewest_ready=2)  # one is lost
    before = case.get_pool()["status"]["currentRevision"]
    case.change(image=SINGLE, rollout={"progressDeadlineSeconds": 86400})
    serve(3, SINGLE, SINGLE, "worker:1", "worker:1")
    lost = next(pod for pod in case.items(PODS) if pod["spec"]["containers"][0]["image"] == "worker:1")
    case.client.delete(PODS, case.namespace, lost["metadata"]["name"], lost["metadata"]["uid"])
    gone = lost["metadata"]["uid"]
    case.wait("the lost pod to go", lambda: gone not in {pod["metadata"]["uid"] for pod in case.items(PODS)})
    serve(3, SINGLE, SINGLE, "worker:1", "worker:1")
    case.invariants.most = 6
    case.change(replicas=5)
    serve(5, SINGLE, SINGLE, *["worker:1"] * 4)
    assert condition(case.get_pool(), "Progressing") == "True"
    case.assert_quiet(2)
    case.change(rollout={"progressDeadlineSeconds": 1})
    serve(5, *["worker:1"] * 5)
    case.assert_quiet(2)
    status = case.get_pool()["status"]
    assert status["currentRevision"] == before != status["rejected"]["revision"]
    assert "1 of 5 pods available" in status["rejected"]["message"]
    case.invariants.check()


def test_the_old_spec_ends_a_roll_at_once(case: Case) -> None:
    case.start()
    case.create(pool(replicas=2))
    case.wait_settled(2)
    uids = {pod["metadata"]["uid"] for pod in case.items(PODS)}
    case.expect(fewest_ready=2)
    go(case, break_image)
    case.change(image="worker:1")
    case.wait_settled(2)
    assert {pod["metadata"]["uid"] for pod in case.items(PODS)} == uids
    numbers = {item["metadata"]["labels"]["vernal.dev/revision"]: item["revision"] for item in case.items(REVISIONS)}
    assert numbers[case.get_pool()["status"]["currentRevision"]] == 3, "the newest again, written over its old number"
    case.assert_quiet(5)
    case.invariants.check()


def test_a_paused_roll_stands_still_and_scales(case: Case) -> None:
    case.start()
    case.create(pool(replicas=1))
    case.wait_settled(1)
    case.change(image="worker:2", replicas=3, rollout={"paused": True})
    case.wait("two more of the old revision", lambda: case.serves(3, starting=0))
    assert images(case) == ["worker:1"] * 3
    assert condition(case.get_pool(), "Progressing") == "False"
    case.assert_quiet(5)
    case.change(rollout={"paused": False})
    case.wait_settled(3)
    assert images(case) == ["worker:2"] * 3
