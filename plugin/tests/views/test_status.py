"""What `kubectl vernal status` says of a pool and of each of its pods."""

import copy
from dataclasses import replace
from typing import Any

import pytest
from kubectl_vernal import read
from kubectl_vernal.views import explain, pods, status
from recording import Change, pod_of, pool, world
from vernal_contract.reasons import NEXT_STEP, Reason


def test_a_settled_pool_is_all_well() -> None:
    found = status.view(world())
    assert [one["name"] for one in found] == ["qwen", "qwen-long"]
    assert status.all_ready(found)
    text = "\n".join(status.details(found[0]))
    assert "Why not ready" not in text and "Drains" not in text and "(proven)" in text


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda raw: pool(raw)["status"].update(observedGeneration=0), "the operator has not looked at this spec yet"),
        (lambda raw: _condition(raw, "Degraded", "True", "QuotaExceeded"), "QuotaExceeded: because"),
        (lambda raw: _condition(raw, "Ready", "False", "NoneReady"), "NoneReady: because"),
        (lambda raw: _condition(raw, "Progressing", "True", "Proving"), "Proving: because"),
    ],
)
def test_the_headline_is_what_matters_most(change: Change, said: str) -> None:
    assert said in status.overview(status.view(world(change)))[1]


def _condition(raw: dict[str, Any], kind: str, value: str, reason: str) -> None:
    entry = next(one for one in pool(raw)["status"]["conditions"] if one["type"] == kind)
    entry.update(status=value, reason=reason, message="because")


def test_a_rejected_revision_is_told_with_what_was_before() -> None:
    def change(raw: dict[str, Any]) -> None:
        pool(raw)["status"].update(
            updateRevision="11111111",
            rejected={"revision": "11111111", "time": "2026-11-25T10:00:00Z", "message": "no such image"},
        )

    (line,) = (one for one in status.details(status.view(world(change))[0]) if one.startswith("  Revision"))
    assert "11111111, not proven; " in line and "REJECTED" in line and "no such image" in line


PODS_METRIC = {"type": "Pods", "pods": {"metric": {"name": "in_flight"}, "current": {"averageValue": "18"}}}


@pytest.mark.parametrize(
    ("metric", "said"),
    [
        (
            {"type": "Pods", "pods": {"metric": {"name": "in_flight"}, "current": {"averageValue": "18"}}},
            "in_flight 18; ",
        ),
        ({"type": ""}, ""),  # as Kubernetes' HPA controller leaves what it has no value of
    ],
)
def test_an_autoscaler_is_shown_with_its_metric_and_its_problem(metric: dict[str, Any], said: str) -> None:
    def change(raw: dict[str, Any]) -> None:
        raw["objects"]["horizontalpodautoscalers"] = [
            {
                "metadata": {"name": "qwen", "namespace": "demo"},
                "spec": {"maxReplicas": 8, "scaleTargetRef": {"kind": "VLLMWorkerPool", "name": "qwen"}},
                "status": {
                    "currentReplicas": 2,
                    "desiredReplicas": 3,
                    "currentMetrics": [metric],
                    "conditions": [
                        {"type": "ScalingActive", "status": "False", "reason": "FailedGetPodsMetric"},
                        {"type": "AbleToScale", "status": "True", "reason": "ReadyForNewScale"},
                    ],
                },
            }
        ]

    (line,) = (one for one in status.details(status.view(world(change))[0]) if one.startswith("  Autoscaling"))
    assert line.split("  ")[-1] == f"1 to 8, now 2, wants 3; {said}ScalingActive: FailedGetPodsMetric"


WHY: list[tuple[str, Change, str]] = [
    (
        "unschedulable",
        lambda pod: _pod_condition(pod, "PodScheduled", "False", "0/2 nodes have a GPU"),
        "no node takes it: 0/2 nodes have a GPU",
    ),
    (
        "unpullable",
        lambda pod: _container(pod, {"waiting": {"reason": "ImagePullBackOff", "message": "no such image"}}),
        "ImagePullBackOff: no such image",
    ),
    (
        "crashing",
        lambda pod: _container(
            pod,
            {"waiting": {"reason": "CrashLoopBackOff"}},
            {"terminated": {"exitCode": 10, "message": "EngineStartFailed: no"}},
        ),
        "CrashLoopBackOff; its last container ended with exit code 10: EngineStartFailed: no",
    ),
    (
        "ended",
        lambda pod: _container(pod, {"terminated": {"exitCode": 137, "reason": "OOMKilled"}}),
        "its last container ended with exit code 137: OOMKilled",
    ),
    ("starting", lambda pod: None, "its worker is Ready"),
]


@pytest.mark.parametrize(("change", "why"), [pytest.param(*rest, id=name) for name, *rest in WHY])
def test_why_a_pod_is_not_ready(change: Change, why: str) -> None:
    found = world()
    pod = copy.deepcopy(pod_of(found, "Cold"))
    _pod_condition(pod, "Ready", "False", "")
    change(pod)
    assert pods.why_not_ready(found, pod) == why


def _pod_condition(pod: dict[str, Any], kind: str, value: str, message: str) -> None:
    entry = next(one for one in pod["status"]["conditions"] if one["type"] == kind)
    entry.update(status=value, message=message)


def _container(pod: dict[str, Any], state: dict[str, Any], last: dict[str, Any] | None = None) -> None:
    (entry,) = pod["status"]["containerStatuses"]
    entry.update(state=state, lastState=last or {}, ready=False)


def test_a_worker_that_is_not_heard_says_why() -> None:
    found = world()
    pod = copy.deepcopy(pod_of(found, "Cold"))
    _pod_condition(pod, "Ready", "False", "")
    deaf = replace(found, states={}, silent={read.key(pod): "no answer on its admin port"})
    assert pods.why_not_ready(deaf, pod) == "its worker was not heard: no answer on its admin port"
    assert explain.text(explain.view(deaf, pod))[1].strip().endswith("no answer on its admin port")


def test_every_reason_that_is_a_failure_has_its_next_step() -> None:
    assert {reason for reason in Reason if pods.next_step(reason.value)} == set(NEXT_STEP)
    assert pods.next_step(None) == pods.next_step("SomethingNewer") == ""
