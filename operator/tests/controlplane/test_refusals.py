"""What a real API server refuses is told in the pool's condition with the API server's own sentence, tried again ever
more seldom, and forgotten once it goes through.
"""

import itertools
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
from cluster.apiserver import ApiServer
from controlplane.cases import CORE, METRIC, POOL, Case, condition, pool, refusal
from controlplane.webhook import PATIENCE_SECONDS, unreachable, webhook
from patience import GUARD_SECONDS
from vernal_contract import names
from vernal_operator.client import ApiError
from vernal_operator.kinds import AUTOSCALERS, BUDGETS, CHECKPOINTS, JOBS, PODS, SERVICES, Kind

pytestmark = pytest.mark.apiserver

QUOTAS = Kind("", "v1", "ResourceQuota", "resourcequotas")
LIMITS = Kind("", "v1", "LimitRange", "limitranges")
CONFIG_MAPS = Kind("", "v1", "ConfigMap", "configmaps")


@dataclass(frozen=True)
class Obstacle:
    """`put` makes the API server refuse a write and returns what lifts that again. `spec`: of the pool."""

    reason: str
    sentence: str
    put: Callable[[Case], Callable[[], object]] = lambda case: lambda: None
    spec: dict[str, Any] = field(default_factory=dict)
    mended: dict[str, Any] = field(default_factory=dict)


def quota(case: Case, of: str, most: int, used: int = 0) -> Callable[[], object]:
    """No controller runs here that would fill in the quota's status; admission reads and writes it. It is in force when
    this returns: of what nobody here makes it allows none, and none is.
    """
    hard = {of: str(most), "count/configmaps": "0"}
    body = {"apiVersion": "v1", "kind": QUOTAS.name, "metadata": {"name": "few"}, "spec": {"hard": hard}}
    made = case.client.create(QUOTAS, case.namespace, body)
    status = {"hard": hard, "used": {of: str(used), "count/configmaps": "0"}}
    case.client._json("patch", QUOTAS, QUOTAS.path(case.namespace, "few", "status"), None, {"status": status})
    case.wait("the quota", lambda: "exceeded quota" in refusal(case.client, CONFIG_MAPS, case.namespace))
    return lambda: case.client.delete(QUOTAS, case.namespace, "few", made["metadata"]["uid"])


def no_pod(case: Case) -> Callable[[], object]:
    return quota(case, "pods", 0)


def pod_refusal(case: Case, **container: Any) -> str:
    spec = {"containers": [{"name": "c", "image": "i", **container}]}
    return refusal(case.client, PODS, case.namespace, spec=spec)


def limit_range(case: Case) -> Callable[[], object]:
    limits = {"limits": [{"type": "Container", "max": {"memory": "1Gi"}, "default": {"memory": "1Gi"}}]}
    body = {"apiVersion": "v1", "kind": LIMITS.name, "metadata": {"name": "small"}, "spec": limits}
    made = case.client.create(LIMITS, case.namespace, body)
    case.wait("the limit", lambda: "maximum memory" in pod_refusal(case, resources={"limits": {"memory": "2Gi"}}))
    return lambda: case.client.delete(LIMITS, case.namespace, "small", made["metadata"]["uid"])


def pod_security(case: Case) -> Callable[[], object]:
    label = "pod-security.kubernetes.io/enforce"

    def enforce(level: str | None) -> None:
        case.client.patch(CORE["Namespace"], "", case.namespace, {"metadata": {"labels": {label: level}}})

    enforce("restricted")
    case.wait("the standard", lambda: "violates PodSecurity" in pod_refusal(case))
    return lambda: enforce(None)


def foreign_service(case: Case) -> Callable[[], object]:
    foreign = {"metadata": {"name": POOL}, "spec": {"ports": [{"port": 1}], "selector": {"app": "other"}}}
    made = case.client.create(SERVICES, case.namespace, {"apiVersion": "v1", "kind": "Service"} | foreign)
    return lambda: case.client.delete(SERVICES, case.namespace, POOL, made["metadata"]["uid"])


INVALID = {"podTemplate": {"spec": {"tolerations": [{"operator": "Perhaps"}]}}}
OBSTACLES = {
    "quota": Obstacle("QuotaExceeded", "exceeded quota: few, requested: pods=1", no_pod),
    "limit range": Obstacle(
        "LimitRangeExceeded",
        "maximum memory usage per Container is 1Gi, but limit is 2Gi",
        limit_range,
        {"resources": {"limits": {"memory": "2Gi"}}},
    ),
    "pod security": Obstacle("PodSecurityViolation", 'violates PodSecurity "restricted:latest"', pod_security),
    "a pod that is none": Obstacle(
        "InvalidObject", "spec.tolerations[0].operator", spec=INVALID, mended={"podTemplate": None}
    ),
    "a service of that name": Obstacle("NameTaken", "rename the pool", foreign_service),
}


def degraded(case: Case) -> dict[str, Any]:
    for entry in case.get_pool().get("status", {}).get("conditions", []):
        if entry["type"] == "Degraded":
            return dict(entry)
    return {}


def refused(case: Case, path: str = "/pods") -> list[float]:
    """When the API server refused a write."""
    return [call.at for call in case.proxy.writes() if call.path.endswith(path) and call.status in (403, 422, 500)]


def shouts(case: Case, about: str) -> list[str]:
    """Lines of the log that an operator is woken for."""
    lines = case.log.read_text().replace('\\"', '"').splitlines()  # as it was before it was quoted
    return [line for line in lines if about in line and (" level=error " in line or " level=warning " in line)]


def assert_backs_off(moments: list[float]) -> None:
    for before, after in itertools.pairwise(moments):
        assert after - before > 0.9, f"tried again after {after - before:.3f} s"


@pytest.mark.parametrize("name", OBSTACLES)
def test_a_refusal_is_told_and_backs_off_and_is_forgotten(case: Case, name: str) -> None:
    obstacle = OBSTACLES[name]
    lift = obstacle.put(case)
    case.start()
    case.create(pool(replicas=2, autoscaling={"maxReplicas": 4, "metrics": [METRIC]}, **obstacle.spec))
    case.wait("the condition", lambda: degraded(case).get("reason") == obstacle.reason)
    found = degraded(case)
    assert found["status"] == "True" and obstacle.sentence in found["message"]
    case.wait("the other children", lambda: bool(case.items(BUDGETS) and case.items(AUTOSCALERS)))
    case.wait("the Event", lambda: any(event["reason"] == obstacle.reason for event in case.events()))
    if name == "a service of that name":
        case.wait("the pods", lambda: len(case.items(PODS)) == 2)
        (service,) = case.items(SERVICES)
        assert service["spec"]["selector"] == {"app": "other"}, "what is somebody else's is left alone"
    else:
        case.wait("three tries", lambda: len(refused(case)) >= 3)
        assert_backs_off(refused(case))
        assert len(shouts(case, obstacle.sentence)) == 1
        assert len([event for event in case.events() if obstacle.sentence in event["note"]]) == 1
    lift()
    if obstacle.mended:
        case.change(**obstacle.mended)
    case.wait("2 settled replicas", lambda: case.settled(2) and condition(case.get_pool(), "Degraded") == "False")
    (service,) = case.items(SERVICES)
    assert service["spec"]["selector"][names.LABEL_POOL] == POOL


@pytest.mark.every_release
def test_a_quota_met_on_the_way_up_leaves_the_rest_serving(case: Case) -> None:
    case.start()
    case.create(pool(replicas=2))
    case.wait_settled(2)
    lift = quota(case, "pods", 3, used=2)
    case.change(replicas=4)
    case.wait("the condition", lambda: degraded(case).get("reason") == "QuotaExceeded")
    case.wait("the third pod", lambda: case.get_pool()["status"]["readyReplicas"] == 3)
    assert condition(case.get_pool(), "Ready") == "False" and condition(case.get_pool(), "Progressing") == "False"
    assert_backs_off(refused(case))
    lift()
    case.wait_settled(4)
    assert degraded(case)["status"] == "False"


def test_a_webhook_that_denies_is_quoted(api: ApiServer, case: Case) -> None:
    deny = threading.Event()
    deny.set()

    def answer(pod: dict[str, Any]) -> dict[str, Any]:
        return {"allowed": not deny.is_set(), "status": {"message": "no pods on a Wednesday"}}

    with webhook(api, case.namespace, "Validating", answer):
        case.start()
        case.create(pool(replicas=1))
        case.wait("the condition", lambda: degraded(case).get("reason") == "AdmissionDenied")
        assert "no pods on a Wednesday" in degraded(case)["message"]
        deny.clear()
        case.wait_settled(1)
        assert degraded(case)["status"] == "False"


def test_a_webhook_for_pods_that_cannot_be_asked_is_told(api: ApiServer, case: Case) -> None:
    case.start()
    case.create(pool(replicas=2))
    case.wait_settled(2)
    with unreachable(api, case.namespace, "pods"):
        lost = case.items(PODS)[0]["metadata"]
        case.client.delete(PODS, case.namespace, lost["name"], lost["uid"])
        case.wait("the condition", lambda: degraded(case).get("reason") == "AdmissionUnavailable")
        assert "failed calling webhook" in degraded(case)["message"]
        case.wait("the status", lambda: case.get_pool()["status"]["readyReplicas"] == 1)
        assert condition(case.get_pool(), "Ready") == "False"
        case.wait("the Event", lambda: any(event["reason"] == "AdmissionUnavailable" for event in case.events()))
        case.wait("three tries", lambda: len(refused(case)) >= 3)
        assert_backs_off(refused(case))
    case.wait("2 settled replicas", lambda: case.settled(2) and condition(case.get_pool(), "Degraded") == "False")


def test_a_webhook_that_holds_a_write_up_is_no_silence_of_the_api_server(api: ApiServer, case: Case) -> None:
    asked, over = threading.Event(), threading.Event()

    def answer(pod: dict[str, Any]) -> dict[str, Any]:
        asked.set()
        over.wait(GUARD_SECONDS)
        return {"allowed": True}

    body = {"metadata": {"name": "x"}, "spec": {"containers": [{"name": "c", "image": "i"}]}}
    with webhook(api, case.namespace, "Validating", answer):
        try:
            client = case.client.unguarded(PATIENCE_SECONDS - 5)  # which is over before the webhook's time is
            while True:
                with pytest.raises(ApiError) as found:
                    client._json("create", PODS, PODS.path(case.namespace), {"timeout": "1s"}, body)
                if asked.is_set():  # else the time was over before there was a connection
                    break
        finally:
            over.set()
    assert asked.is_set() and found.value.status >= 500 and not found.value.unavailable
    case.start()
    case.create(pool(replicas=1))
    case.wait_settled(1)
    assert {float(call.query["timeout"].rstrip("s")) < 15 for call in case.proxy.writes()} == {True}


def test_a_webhook_for_services_that_cannot_be_asked_keeps_no_pod_from_being_made(api: ApiServer, case: Case) -> None:
    with unreachable(api, case.namespace, "services"):
        case.start()
        case.create(pool(replicas=2))
        case.wait("the condition", lambda: degraded(case).get("reason") == "AdmissionUnavailable")
        case.wait("the pods", lambda: case.get_pool()["status"]["readyReplicas"] == 2)
        assert not case.items(SERVICES)
    case.wait("2 settled replicas", lambda: case.settled(2) and condition(case.get_pool(), "Degraded") == "False")
    assert case.items(SERVICES)


def test_a_namespace_that_is_terminating_gets_silence(case: Case) -> None:
    case.start()
    case.create(pool(replicas=1))
    case.wait_settled(1)
    before = degraded(case)
    found = case.client.get(CORE["Namespace"], None, case.namespace)
    case.client.delete(CORE["Namespace"], "", case.namespace, found["metadata"]["uid"])
    for item in (*case.items(PODS), *case.items(SERVICES)):
        kind = PODS if "containers" in item["spec"] else SERVICES
        case.client.delete(kind, case.namespace, item["metadata"]["name"], item["metadata"]["uid"])
    case.wait(
        "the API server to refuse a pod and a Service",
        lambda: bool(refused(case) and refused(case, f"/services/{POOL}")),
    )
    case.wait("the status to say that no pod is there", lambda: case.get_pool()["status"]["replicas"] == 0)
    case.wait("three tries", lambda: len(refused(case)) >= 3)
    assert_backs_off(refused(case))
    assert degraded(case) == before
    assert not (told := shouts(case, "because it is being terminated")), told


def test_a_janitor_that_may_not_run_is_told_on_the_checkpoint(case: Case) -> None:
    case.start()
    retention = {"storage": {"claimName": "store"}, "retention": {"unusedSeconds": 0}}
    case.create(pool(replicas=1, checkpoint=retention))
    case.wait_settled(1)
    lift = quota(case, "count/jobs.batch", 0)
    case.delete_pool()

    def told() -> bool:
        return any(
            entry["type"] == "Failed"
            and entry["reason"] == "QuotaExceeded"
            and "exceeded quota: few" in entry["message"]
            for item in case.items(CHECKPOINTS)
            for entry in item.get("status", {}).get("conditions", [])
        )

    case.wait("the condition", told)
    assert not case.items(JOBS)
    lift()
    case.wait("the files to be removed and the checkpoint to go", lambda: not case.items(CHECKPOINTS))
