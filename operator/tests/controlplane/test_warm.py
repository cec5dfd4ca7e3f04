"""On which nodes a checkpoint is warm, by what real statuses of an API server show of it."""

import time
from collections.abc import Callable, Iterator
from typing import Any

import msgspec
import pytest
from controlplane.cases import Case, Server, pool
from controlplane.chart import install, rendered, token
from controlplane.node import now
from vernal_contract import names, state
from vernal_contract.state import CacheFill, CacheLookup, NodeCacheReport, WorkerState
from vernal_operator.client import ApiError
from vernal_operator.kinds import CHECKPOINTS, JOBS, NODES, PODS

pytestmark = pytest.mark.apiserver

BESIDE = ("crds.install=false", "admissionPolicy.enabled=false")
"""Of a second installation on the same API server: it brings nothing that holds for everybody."""


@pytest.fixture
def node(server: Server) -> Iterator[Callable[[], None]]:
    """The Node on which all pods are; the function deletes it."""
    manifest = {"apiVersion": "v1", "kind": "Node", "metadata": {"name": "node"}}
    uid = server.client.create(NODES, "", manifest)["metadata"]["uid"]

    def delete() -> None:
        try:
            server.client.delete(NODES, "", "node", uid)
        except ApiError as error:
            if not error.not_found:
                raise

    yield delete
    delete()


def test_a_node_is_warm_until_others_take_the_room_or_it_is_gone(
    server: Server, make_case: Callable[..., Case], node: Callable[[], None]
) -> None:
    """With the chart's role for it, and one write for each change."""
    case = make_case("--node-cache=/var/lib/vernal-cache", "--node-cache-size=1Gi", all_namespaces=True)
    install(server.client, rendered(server.helm, "cached", "nodeCache.directory=/c", *BESIDE))
    case.use(token(server.client, "cached-vernal"))
    began = time.time()
    says = {
        "pool": NodeCacheReport(tier="disk", lookup=CacheLookup.MISS, fill=CacheFill.FILLED, told_at=began),
        "other": NodeCacheReport(tier="disk", fill=CacheFill.FILLED, evicted_bytes=9, told_at=began + 1),
    }

    def tell(said: WorkerState) -> WorkerState:
        return msgspec.structs.replace(said, node_cache=says[said.pool]) if said.ready else said

    for name in says:
        server.node.lies[case.namespace, name] = tell
    case.start()
    case.create(pool(replicas=1))
    case.wait_settled(1)
    case.wait("the node to be warm", lambda: warm(case) == {None: (1, [("node", True, "Filled")])})
    case.create(pool(replicas=1, engineArgs={"seed": 9}) | {"metadata": {"name": "other"}})
    evicted, filled = (0, [("node", False, "Evicted")]), (1, [("node", True, "Filled")])
    case.wait("another's files to have its room", lambda: warm(case) == {None: evicted, 9: filled})
    case.assert_quiet(3)
    writes = [
        call for call in case.proxy.writes() if "/vllmcheckpoints/" in call.path and call.path.endswith("/status")
    ]
    written = [call.body["status"] for call in writes if call.body]
    words = [status["nodes"] for status in written if status.get("nodes")]
    assert len([one for one in words if one[0]["reason"] == "Evicted"]) == 1
    node()
    case.wait("the node not to be counted", lambda: warm(case) == {None: (0, []), 9: (0, [])})
    assert not case.forbidden()
    case.invariants.check()


@pytest.fixture
def gpu_nodes(server: Server) -> Iterator[None]:
    """Two more nodes, ready, on which the pool's pods could be."""
    ready = {"type": "Ready", "status": "True", "reason": "KubeletReady", "message": "", "lastTransitionTime": now()}
    made = {}
    for name in ("gpu-1", "gpu-2"):
        meta = {"name": name, "labels": {"gpu": "yes"}}
        found = server.client.create(NODES, "", {"apiVersion": "v1", "kind": "Node", "metadata": meta})
        made[name] = found["metadata"]["uid"]
        status = {"conditions": [ready], "allocatable": {"cpu": "8"}}
        server.client._json("patch", NODES, NODES.path(None, name, "status"), None, {"status": status})
        server.client._json("patch", NODES, NODES.path(None, name), None, {"spec": {"taints": None}})  # not-ready
    yield
    for name, uid in made.items():
        server.client.delete(NODES, "", name, uid)


def test_nodes_fetch_a_checkpoint_before_a_pod_is_there(
    server: Server, make_case: Callable[..., Case], node: Callable[[], None], gpu_nodes: None
) -> None:
    """One after the other, by Jobs that the API server takes; one that failed is told, and nothing goes round."""
    cache = ("--node-cache=/var/lib/vernal-cache", "--node-cache-size=1Gi")
    case = make_case(*cache, "--prefetch=2", all_namespaces=True)
    settings = ("nodeCache.directory=/c", "nodeCache.prefetch.nodes=2", *BESIDE)
    install(server.client, rendered(server.helm, "cached", *settings))
    case.use(token(server.client, "cached-vernal"))
    case.start()
    case.create(pool(replicas=1, podTemplate={"spec": {"nodeSelector": {"gpu": "yes"}}}))
    case.wait_settled(1)
    ends: dict[str, dict[str, Any]] = {
        "gpu-1": {"fill": CacheFill.FILLED},
        "gpu-2": {"fill": CacheFill.FULL, "message": "7 bytes are needed"},
    }
    for name, said in ends.items():
        case.wait(f"a Job for {name}", lambda name=name: fetches(case) == [name])  # type: ignore[misc]
        case.restart()
        assert fetches(case) == [name], "one at a time, whoever leads"
        finish(case, NodeCacheReport(told_at=time.time(), **said))
        case.wait(f"that of {name} to go", lambda name=name: name not in fetches(case))  # type: ignore[misc]
    told = [("gpu-1", True, "Fetched"), ("gpu-2", False, "Full")]
    case.wait("both to be told", lambda: warm(case) == {None: (1, told)})
    event = case.wait_event("PrefetchFailed")
    assert "node gpu-2" in event["note"] and "7 bytes are needed; raise nodeCache.size" in event["note"]
    case.assert_quiet(5)
    case.restart()
    case.assert_quiet(5)
    assert not fetches(case) and warm(case) == {None: (1, told)}
    assert not case.forbidden()
    case.invariants.check()


def fetches(case: Case) -> list[str]:
    """Nodes that Jobs fetch to."""
    jobs = [job for job in case.items(JOBS) if not job["metadata"].get("deletionTimestamp")]
    return sorted(job["metadata"]["annotations"][names.ANNOTATION_NODE] for job in jobs)


def finish(case: Case, report: NodeCacheReport) -> None:
    """What kubelet and Job controller do when the only Job's pod has ended."""
    (job,) = case.items(JOBS)
    name, client = job["metadata"]["name"], case.client
    template = job["spec"]["template"]
    meta = {"name": name, "labels": template["metadata"]["labels"] | {"batch.kubernetes.io/job-name": name}}
    client.create(PODS, case.namespace, {"apiVersion": "v1", "kind": "Pod", "metadata": meta, "spec": template["spec"]})
    good = report.fill is CacheFill.FILLED
    ended = {"exitCode": 0 if good else 1, "message": state.encode_cache(report).decode()}
    container = {"name": "fetch", "ready": False, "restartCount": 0, "image": "x", "imageID": "x"}
    statuses = [container | {"state": {"terminated": ended}}]
    status: dict[str, Any] = {"phase": "Succeeded" if good else "Failed", "containerStatuses": statuses}
    client._json("patch", PODS, PODS.path(case.namespace, name, "status"), None, {"status": status})
    kinds = ("SuccessCriteriaMet", "Complete") if good else ("FailureTarget", "Failed")
    conditions = [{"type": kind, "status": "True", "reason": "x", "lastTransitionTime": now()} for kind in kinds]
    status = {"startTime": now(), "conditions": conditions}
    status |= {"succeeded": 1, "completionTime": now()} if good else {"failed": 1}
    client._json("patch", JOBS, JOBS.path(case.namespace, name, "status"), None, {"status": status})


def warm(case: Case) -> dict[Any, tuple[int | None, list[tuple[str, bool, str]]]]:
    """What statuses say, by the engine's seed."""
    out = {}
    for item in case.items(CHECKPOINTS):
        status = item.get("status", {})
        nodes = [(node["name"], node["cached"], node["reason"]) for node in status.get("nodes", [])]
        out[item["spec"]["identityInputs"]["engineArgs"].get("seed")] = (status.get("warmNodes"), nodes)
    return out
