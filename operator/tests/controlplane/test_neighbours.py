"""What runs beside Vernal: the examples of docs/neighbours.md, against the neighbours' real CRDs, and what they do to
pools and pods, as far as an API server shows it. No controller of theirs runs here.
"""

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import checkers
import pytest
import yaml
from cluster.apiserver import ApiServer
from controlplane.cases import POOL, Case, Server, condition, pool
from controlplane.webhook import patched, webhook
from patience import until
from vernal_contract import names
from vernal_operator.build.meta import pod_labels
from vernal_operator.kinds import PODS, POOLS

pytestmark = pytest.mark.apiserver

EXAMPLES = Path(__file__).parents[3] / "docs" / "examples"
CRDS = {
    "inference": ("inferencepools",),
    "gateway": ("httproutes",),
    "keda": ("scaledobjects",),
    "kueue": ("resourceflavors", "clusterqueues", "localqueues"),
}
GATE, MANAGED = "kueue.x-k8s.io/admission", "kueue.x-k8s.io/managed"


class Kubectl:
    def __init__(self, api: ApiServer) -> None:
        self._command = [api.kubectl, f"--kubeconfig={api.kubeconfig}"]

    def __call__(self, *args: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
        return subprocess.run([*self._command, *args], input=stdin, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def beside(server: Server, api: ApiServer) -> Iterator[Kubectl]:
    """kubectl, on the API server that has the neighbours' CRDs as well."""
    kubectl = Kubectl(api)
    files = [f"--filename={crd}" for name, kinds in CRDS.items() for crd in checkers.neighbours_crds(name, *kinds)]
    made = kubectl("apply", "--server-side", *files)
    assert made.returncode == 0, made.stderr
    kinds = [kind for found in CRDS.values() for kind in found]
    until("the kinds to be served", lambda: kubectl("get", ",".join(kinds), "-A").returncode == 0)
    yield kubectl
    # Not waited for: where a kind's storage has just begun, the API server tries again after ever longer pauses.
    kubectl("delete", *files, "--wait=false")


def documents(example: str) -> list[dict[str, Any]]:
    return [document for document in yaml.safe_load_all((EXAMPLES / f"{example}.yaml").read_text()) if document]


@pytest.mark.parametrize("example", ["inference-pool", "keda", "kueue", "mesh"])
def test_the_example_is_what_the_api_server_takes(beside: Kubectl, example: str) -> None:
    done = beside("apply", "--dry-run=server", "--validate=strict", f"--filename={EXAMPLES / example}.yaml")
    assert done.returncode == 0 and "Warning" not in done.stderr, done.stderr


@pytest.mark.parametrize("example", ["inference-pool", "keda", "kueue"])
def test_a_field_that_is_none_is_found(beside: Kubectl, example: str) -> None:
    """So the CRDs are those of the examples' versions, and say something."""
    wrong = documents(example)[0]
    wrong["spec"]["aFieldOfATomorrow"] = 1
    done = beside("apply", "--dry-run=server", "--validate=strict", "--filename=-", stdin=json.dumps(wrong))
    assert done.returncode != 0 and "aFieldOfATomorrow" in done.stderr, done.stderr


def test_an_inference_pool_selects_the_workers_and_nothing_else() -> None:
    spec = documents("inference-pool")[0]["spec"]
    assert spec["selector"]["matchLabels"] == pod_labels("qwen")
    assert [port["number"] for port in spec["targetPorts"]] == [names.PORT_SERVING]


def test_a_worker_waits_for_kueue_and_goes_when_kueue_lets_go(api: ApiServer, case: Case) -> None:
    """With what its webhook puts on a pod that names a queue: a scheduling gate, a label, a finalizer."""

    def answer(pod: dict[str, Any]) -> dict[str, Any]:
        assert pod["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] == "serving"
        return patched(
            {"op": "add", "path": "/spec/schedulingGates", "value": [{"name": GATE}]},
            {"op": "add", "path": "/metadata/labels/kueue.x-k8s.io~1managed", "value": "true"},
            {"op": "add", "path": "/metadata/finalizers", "value": [MANAGED]},
        )

    (wanted,) = [one for one in documents("kueue") if one["kind"] == POOLS.name]
    with webhook(api, case.namespace, "Mutating", answer):
        case.start()
        case.create(pool(replicas=2, podTemplate=wanted["spec"]["podTemplate"]))
        case.wait("two gated pods", lambda: len(case.items(PODS)) == 2)
        case.wait("the pool to say so", lambda: condition(case.get_pool(), "Ready") == "False")
        case.assert_quiet(1)
        gated = case.items(PODS)
        assert all(
            pod["spec"]["schedulingGates"] == [{"name": GATE}] and not pod["spec"].get("nodeName") for pod in gated
        )
        said = {c["type"]: c for c in case.get_pool()["status"]["conditions"]}
        assert said["Degraded"]["status"] == "False", "to wait for a quota is no fault"
        for pod in gated:  # admitted
            case.client.patch(PODS, case.namespace, pod["metadata"]["name"], {"spec": {"schedulingGates": None}})
        case.wait_settled(2)
        assert {pod["metadata"]["uid"] for pod in case.items(PODS)} == {pod["metadata"]["uid"] for pod in gated}
        case.change(replicas=1)
        case.wait("a pod to be on its way out", lambda: bool(leaving(case)))
        (pod,) = leaving(case)
        case.client.patch(PODS, case.namespace, pod["metadata"]["name"], {"metadata": {"finalizers": None}})
        case.wait_settled(1)
    for pod in case.items(PODS):
        case.client.patch(PODS, case.namespace, pod["metadata"]["name"], {"metadata": {"finalizers": None}})


def leaving(case: Case) -> list[dict[str, Any]]:
    return [pod for pod in case.items(PODS) if pod["metadata"].get("deletionTimestamp")]


def test_a_mesh_gets_what_the_example_says_and_the_pool_settles(api: ApiServer, case: Case) -> None:
    """A native sidecar is an init container that goes on; nothing of it is taken for a change of the pool."""
    proxy = {"name": "istio-proxy", "image": "proxyv2:1", "restartPolicy": "Always"}

    def answer(pod: dict[str, Any]) -> dict[str, Any]:
        meta = pod["metadata"]
        assert meta["labels"]["sidecar.istio.io/inject"] == "true"
        assert meta["annotations"]["traffic.sidecar.istio.io/excludeInboundPorts"] == str(names.PORT_ADMIN)
        return patched({"op": "add", "path": "/spec/initContainers", "value": [proxy]})

    template = documents("mesh")[0]["spec"]["podTemplate"]
    with webhook(api, case.namespace, "Mutating", answer):
        case.start()
        case.create(pool(replicas=2, podTemplate=template))
        case.wait_settled(2)
        case.assert_quiet(1)
    for pod in case.items(PODS):
        assert [one["name"] for one in pod["spec"]["initContainers"]] == ["istio-proxy"]
        assert [one["name"] for one in pod["spec"]["containers"]] == [names.CONTAINER_WORKER]


@pytest.mark.parametrize("example", ["pool", "kueue"])
def test_argo_cd_finds_no_difference_once_a_pool_has_settled(api: ApiServer, case: Case, example: str) -> None:
    """With and without an autoscaler. Argo CD applies server-side and compares with what the same apply would give."""
    (wanted,) = [one for one in documents(example) if one["kind"] == POOLS.name]
    wanted["metadata"] = {"name": POOL, "namespace": case.namespace}
    kubectl, how = (
        Kubectl(api),
        ("--server-side", "--force-conflicts", "--field-manager=argocd-controller", "--filename=-"),
    )
    case.start()
    done = kubectl("apply", *how, stdin=json.dumps(wanted))
    assert done.returncode == 0, done.stderr
    case.wait_settled(wanted["spec"].get("replicas", 1))
    case.assert_quiet(1)
    before = case.get_pool()
    found = kubectl("diff", *how, stdin=json.dumps(wanted))
    assert (found.returncode, found.stdout) == (0, ""), found.stdout + found.stderr
    assert kubectl("apply", *how, stdin=json.dumps(wanted)).returncode == 0
    case.assert_quiet(1)
    after = case.get_pool()
    for field in ("generation", "resourceVersion"):
        assert after["metadata"][field] == before["metadata"][field]
    ours = [one for one in after["metadata"]["managedFields"] if one["manager"] == names.FIELD_MANAGER]
    assert ours and {one.get("subresource") for one in ours} == {"status"}, (
        "the operator owns nothing that Argo CD applies"
    )
    if "replicas" not in wanted["spec"]:
        assert after["spec"]["replicas"] == 1 and condition(after, "Ready") == "True"
