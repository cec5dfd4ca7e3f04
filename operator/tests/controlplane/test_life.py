"""A pool's life without faults of the network: what is written, what is refused, and the silence in between."""

import json
import subprocess
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest
from cluster.apiserver import ApiServer
from common.ports import free_port
from controlplane.cases import METRIC, POOL, Case, Server, condition, fetched, pool
from controlplane.chart import install, rendered, token
from controlplane.proxy import Call, Watches
from vernal_contract import names
from vernal_operator.client import ApiError
from vernal_operator.kinds import AUTOSCALERS, BUDGETS, CHECKPOINTS, PODS, POOLS, SERVICES, Kind

pytestmark = pytest.mark.apiserver

QUOTAS = Kind("", "v1", "ResourceQuota", "resourcequotas")


@pytest.mark.every_release
def test_a_pool_comes_up_and_then_nothing_is_called(case: Case) -> None:
    case.invariants.most = 3
    case.start()
    case.create(pool(replicas=2))
    case.wait_settled(2)
    case.assert_quiet(10)
    found = case.get_pool()
    assert (found["status"]["restoredReplicas"], found["status"]["coldStartedReplicas"]) == (1, 1)
    assert len(case.items(CHECKPOINTS)) == 1
    for kind in (SERVICES, BUDGETS):
        (child,) = case.items(kind)
        assert child["metadata"]["ownerReferences"][0]["uid"] == found["metadata"]["uid"]
    case.invariants.check()
    before: dict[tuple[str, str], Any] = {}
    for call in case.proxy.writes():
        body = call.body | {"metadata": call.body["metadata"] | {"resourceVersion": None}}
        assert before.get((call.method, call.path)) != body, f"{call} was written twice: {body}"
        if call.status < 300:
            before[call.method, call.path] = body


def test_a_node_cache_is_for_pods_that_come_and_rolls_none(make_case: Callable[..., Case]) -> None:
    """As the API server has them, with PodSecurity admission on."""
    case = make_case("--node-cache=/var/lib/vernal-cache", "--node-cache-size=1Gi")
    case.start()
    case.create(pool(replicas=1))
    case.wait_settled(1)
    with_cache = {pod["metadata"]["name"]: pod["spec"] for pod in case.items(PODS)}
    for found in with_cache.values():
        (volume,) = [volume for volume in found["volumes"] if "hostPath" in volume]
        assert volume["hostPath"] == {"path": f"/var/lib/vernal-cache/{case.namespace}", "type": "DirectoryOrCreate"}
        mounts = [mount for c in found["containers"] for mount in c["volumeMounts"] if mount["name"] == volume["name"]]
        assert [mount["readOnly"] for mount in mounts] == [True]
    del case._args[-2:]
    case.restart()
    case.change(replicas=2)
    case.wait_settled(2)
    pods = {pod["metadata"]["name"]: pod for pod in case.items(PODS)}
    assert pods.keys() > with_cache.keys()
    (new,) = [pod for name, pod in pods.items() if name not in with_cache]
    assert not [volume for volume in new["spec"]["volumes"] if "hostPath" in volume]


def test_a_pool_that_is_nested_without_end_is_told_so_and_keeps_no_other_from_being_served(
    case: Case, api: ApiServer
) -> None:
    """The API server keeps 10,000 levels where a field is free. Both ways in: a watch, and after a restart a list."""
    case.start()
    evil = pool(engineArgs={"x": "?"}) | {"metadata": {"name": "evil"}}
    text = json.dumps(evil).replace('"?"', "[" * 5000 + "]" * 5000)
    run = [api.kubectl, f"--kubeconfig={api.kubeconfig}", "-n", case.namespace]
    subprocess.run([*run, "create", "--validate=false", "-f", "-"], input=text, check=True, text=True)
    why = '{.status.conditions[?(@.type=="Degraded")].message}'

    def told() -> bool:
        said = subprocess.run([*run, "get", "vwp", "evil", "-o", f"jsonpath={why}"], check=True, capture_output=True)
        return b"spec.engineArgs: must not be nested deeper than 64 levels" in said.stdout

    case.create(pool(replicas=1))
    case.wait_settled(1)
    case.wait("the field to be named", told)
    case.restart()
    case.change(replicas=2)
    case.wait_settled(2)


@pytest.mark.every_release
def test_scale_goes_through_the_subresource(case: Case, kubectl: Callable[..., str]) -> None:
    case.start()
    case.create(pool(replicas=1))
    case.wait_settled(1)
    kubectl("-n", case.namespace, "scale", f"vwp/{POOL}", "--replicas=3")
    case.wait_settled(3)
    kubectl("-n", case.namespace, "scale", f"vwp/{POOL}", "--replicas=2")
    case.wait_settled(2)
    case.wait("the Event", lambda: any(event["note"].startswith("deleting pod") for event in case.events()))
    kubectl("-n", case.namespace, "scale", f"vwp/{POOL}", "--replicas=3")
    case.wait_settled(3)
    scale = json.loads(kubectl("get", "--raw", POOLS.path(case.namespace, POOL, "scale")))
    assert scale["status"]["replicas"] == 3
    pods = kubectl("-n", case.namespace, "get", "pods", "-l", scale["status"]["selector"], "-o", "name")
    assert len(pods.split()) == 3
    assert case.get_pool()["spec"]["replicas"] == 3, "the operator must not write spec.replicas"


@pytest.mark.every_release
def test_children_that_someone_changes_or_deletes_come_back(case: Case) -> None:
    case.start()
    case.create(pool(replicas=1, autoscaling={"maxReplicas": 2, "metrics": [METRIC]}))
    case.wait_settled(1)
    for kind in (SERVICES, BUDGETS, AUTOSCALERS):
        (child,) = case.items(kind)
        case.client.delete(kind, case.namespace, POOL, child["metadata"]["uid"])
        case.wait(f"a new {kind.name}", lambda kind=kind: len(case.items(kind)) == 1)  # type: ignore[misc]
    case.client.patch(POOLS, case.namespace, POOL, {"spec": {"autoscaling": None}})
    case.wait("the autoscaler to be removed", lambda: not case.items(AUTOSCALERS))
    case.assert_quiet(2)


def test_a_pod_that_went_while_nobody_watched_is_replaced(case: Case) -> None:
    case.start()
    case.create(pool(replicas=2))
    case.wait_settled(2)
    case.proxy.set_watches(Watches(expired_when_opened=True))
    case.proxy.fault = lambda call: None
    victim = case.items(PODS)[0]["metadata"]
    case.client.delete(PODS, case.namespace, victim["name"], victim["uid"])
    case.wait("it to be gone", lambda: victim["uid"] not in {p["metadata"]["uid"] for p in case.items(PODS)})
    case.proxy.set_watches(Watches())
    case.wait_settled(2)
    assert victim["uid"] not in {pod["metadata"]["uid"] for pod in case.items(PODS)}


def test_a_pod_without_its_label_is_told_and_not_fought_over(case: Case) -> None:
    case.start()
    case.create(pool(replicas=1))
    case.wait_settled(1)
    name = case.items(PODS)[0]["metadata"]["name"]
    case.client.patch(PODS, case.namespace, name, {"metadata": {"labels": {names.LABEL_POOL: None}}})
    case.wait("the Event", lambda: any("lacks its label" in event["note"] for event in case.events()))
    case.assert_quiet(5)
    case.client.patch(PODS, case.namespace, name, {"metadata": {"labels": {names.LABEL_POOL: POOL}}})
    case.wait_settled(1)
    case.assert_quiet(3)


@pytest.mark.every_release
def test_a_checkpoint_in_use_survives_its_deletion_and_a_restart(case: Case) -> None:
    case.start()
    case.create(pool(replicas=1))
    case.wait_settled(1)
    (checkpoint,) = case.items(CHECKPOINTS)
    case.client.delete(CHECKPOINTS, case.namespace, checkpoint["metadata"]["name"], checkpoint["metadata"]["uid"])
    reads = case.server.node.reads
    case.restart()
    case.wait("the new operator to ask the worker", lambda: case.server.node.reads > reads)
    case.assert_quiet(4)
    assert case.items(CHECKPOINTS)[0]["metadata"]["deletionTimestamp"]
    case.delete_pool()
    case.wait("the files to be removed and the checkpoint to go", lambda: not case.items(CHECKPOINTS))


def test_probes_metrics_and_an_end_without_complaint(make_case: Callable[..., Case]) -> None:
    health, metrics = free_port(), free_port()
    case = make_case(f"--liveness=http://127.0.0.1:{health}/healthz", f"--metrics-port={metrics}")
    case.start()
    case.create(pool(replicas=1))
    case.wait_settled(1)

    def alive() -> bool:
        with suppress(OSError):  # kopf serves it, in its own time
            return bool(json.loads(fetched(f"http://127.0.0.1:{health}/healthz")) == {"controller": "ready"})
        return False

    case.wait("liveness", alive)
    assert fetched(f"http://127.0.0.1:{metrics}/readyz") == "ok\n"
    for sample in (
        'vernal_operator_api_requests_total{code="201",resource="pods",verb="create"} 1.0',
        'vernal_operator_reconciles_total{kind="VLLMWorkerPool",result="settled"}',
        'vernal_operator_cached_objects{resource="pods"} 1.0',
    ):
        case.wait(sample, lambda sample=sample: sample in fetched(f"http://127.0.0.1:{metrics}/metrics"))  # type: ignore[misc]
    assert case.operator is not None
    case.operator.kill(15)
    case.wait("the operator to end", lambda: case.operator is not None and not case.operator.alive)
    assert "Traceback" not in case.log.read_text()


def test_all_namespaces_with_the_charts_cluster_role(make_case: Callable[..., Case]) -> None:
    case = make_case(all_namespaces=True)
    other = make_case()
    case.start()
    for one in (case, other):
        one.create(pool(replicas=1))
    case.wait_settled(1)
    other.wait_settled(1)
    assert not case.forbidden()


@pytest.mark.every_release
def test_one_namespace_with_the_charts_role(server: Server, make_case: Callable[..., Case]) -> None:
    case = make_case()
    install(server.client, rendered(server.helm, "small", f"watchNamespace={case.namespace}", "crds.install=false"))
    case.use(token(server.client, "small-vernal"))
    case.start()
    case.create(pool(replicas=1, checkpoint={"storage": {"claimName": "store"}, "retention": {"unusedSeconds": 0}}))
    case.wait_settled(1)
    case.delete_pool()
    case.wait("the checkpoint to go", lambda: not case.items(CHECKPOINTS))
    assert not case.forbidden()


def test_the_api_server_crashes_and_comes_back(api: ApiServer, case: Case) -> None:
    case.start()
    case.create(pool(replicas=1))
    case.wait_settled(1)
    api.kill()
    killed = time.monotonic()
    case.wait(
        "calls that nobody answered", lambda: len([c for c in case.proxy.calls if c.at > killed and not c.status]) > 9
    )
    api.start()
    case.change(replicas=2)
    case.wait_settled(2)
    assert case.starts == 1 and case.operator is not None and case.operator.alive
    case.assert_quiet(5)


@pytest.mark.every_release
def test_a_pool_whose_stored_spec_does_not_parse_is_told(case: Case) -> None:
    case.start()
    case.create(pool(replicas=1))
    case.wait_settled(1)
    with pytest.raises(ApiError, match="replicas"):
        case.change(replicas=-1)
    assert condition(case.get_pool(), "Ready") == "True"


def _refused_pod(call: Call) -> bool:
    return call.method == "POST" and call.path.endswith("/pods") and call.status == 403


@pytest.fixture
def kubectl(api: ApiServer) -> Callable[..., str]:
    def run(*args: str) -> str:
        command = [api.kubectl, f"--kubeconfig={api.kubeconfig}", *args]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout

    return run
