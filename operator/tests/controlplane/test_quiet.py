"""A settled pool costs no write, whatever others write beside it; what others change of Vernal's own is put back."""

import itertools
import re
import time
from collections.abc import Callable
from typing import Any

import pytest
from cluster.apiserver import ApiServer
from common.ports import free_port
from controlplane.cases import METRIC, POOL, Case, fetched, pool
from controlplane.node import now
from controlplane.proxy import Watches
from controlplane.test_refusals import LIMITS
from controlplane.webhook import patched, webhook
from vernal_operator.kinds import AUTOSCALERS, BUDGETS, CHECKPOINTS, PODS, POOLS, REVISIONS, SERVICES, Kind

pytestmark = pytest.mark.apiserver

OBJECTS = (POOLS, CHECKPOINTS, PODS, SERVICES, BUDGETS, AUTOSCALERS)
SIDECAR = {"name": "proxy", "image": "mesh:1", "env": [{"name": "A", "value": "b"}]}


def inject(pod: dict[str, Any]) -> dict[str, Any]:
    """What a service mesh does to a pod."""
    return patched(
        {"op": "add", "path": "/spec/containers/0", "value": SIDECAR},
        {"op": "add", "path": "/metadata/labels/mesh.example.com~1rev", "value": "1"},
        {"op": "add", "path": "/metadata/annotations", "value": {"mesh.example.com/status": "injected"}},
    )


def meddle(case: Case, kind: Kind, number: int) -> None:
    """Write what is nobody's but a stranger's, with the manager of a stranger."""
    stamp = str(number)
    for item in case.items(kind):
        meta = item["metadata"]
        others = [name for name in meta.get("finalizers", []) if name != "example.com/mine"]
        change = {
            "labels": {"example.com/team": stamp},
            "annotations": {"example.com/seen": stamp},
            "finalizers": [*others, "example.com/mine"],
        }
        case.client.patch(kind, case.namespace, meta["name"], {"metadata": change})
        if kind in (POOLS, CHECKPOINTS):
            condition = {"type": "example.com/Audited", "status": "True", "reason": "Seen", "message": stamp}
            conditions = [c for c in item["status"]["conditions"] if c["type"] != condition["type"]]
            status = {"conditions": [*conditions, condition | {"lastTransitionTime": now()}]}
            path = kind.path(case.namespace, meta["name"], "status")
            case.client._json("patch", kind, path, {"fieldManager": "stranger"}, {"status": status})


def reconciles(port: int) -> int:
    """How many reconciles the operator has ended."""
    text = fetched(f"http://127.0.0.1:{port}/metrics")
    return sum(int(float(n)) for n in re.findall(r"^vernal_operator_reconciles_total{.*} (\S+)$", text, re.MULTILINE))


def lists(case: Case) -> int:
    return len([call for call in list(case.proxy.calls) if call.is_list])


def test_what_others_write_beside_causes_no_call(api: ApiServer, make_case: Callable[..., Case]) -> None:
    port = free_port()
    case = make_case(f"--metrics-port={port}")
    limits = {"limits": [{"type": "Container", "default": {"memory": "1Gi"}, "defaultRequest": {"cpu": "100m"}}]}
    case.client.create(
        LIMITS, case.namespace, {"apiVersion": "v1", "kind": LIMITS.name, "metadata": {"name": "l"}, "spec": limits}
    )
    with webhook(api, case.namespace, "Mutating", inject):
        case.start()
        case.create(pool(replicas=2, autoscaling={"maxReplicas": 4, "metrics": [METRIC]}))
        case.wait_settled(2)
    for pod in case.items(PODS):
        assert [c["name"] for c in pod["spec"]["containers"]] == ["proxy", "worker"]
        assert pod["spec"]["containers"][1]["resources"]["requests"]["cpu"] == "100m"
    uids = {item["metadata"]["uid"] for kind in OBJECTS for item in case.items(kind)}
    case.assert_quiet(1)
    since, numbers = time.monotonic(), itertools.count()
    for kind in OBJECTS * 2:
        before = reconciles(port)
        meddle(case, kind, next(numbers))
        case.wait(f"a reconcile after a change of {kind.name}", lambda before=before: reconciles(port) > before)  # type: ignore[misc]
    for _ in range(2):
        before = lists(case)
        case.proxy.set_watches(Watches(error=410))
        case.wait("all kinds to be listed again", lambda before=before: lists(case) >= before + 7)  # type: ignore[misc]
        case.proxy.set_watches(Watches())
    before = reconciles(port)
    meddle(case, POOLS, next(numbers))
    case.wait("the last reconcile", lambda: reconciles(port) > before)
    calls = [str(call) for call in case.proxy.others(since) if not call.is_discovery]
    assert not calls, calls
    assert {item["metadata"]["uid"] for kind in OBJECTS for item in case.items(kind)} == uids
    (found,) = case.items(POOLS)
    assert "example.com/Audited" in [c["type"] for c in found["status"]["conditions"]]


def going(case: Case, kind: Kind) -> list[dict[str, Any]]:
    return [item for item in case.items(kind) if item["metadata"].get("deletionTimestamp")]


def test_what_a_stranger_s_finalizer_keeps_is_deleted_once(case: Case) -> None:
    case.start()
    rollout = {"revisionHistoryLimit": 0}
    case.create(pool(replicas=1, autoscaling={"maxReplicas": 4, "metrics": [METRIC]}, rollout=rollout))
    case.wait_settled(1)
    kept = (AUTOSCALERS, REVISIONS)
    for kind in kept:
        (item,) = case.items(kind)
        mine = {"metadata": {"finalizers": ["example.com/mine"]}}
        case.client.patch(kind, case.namespace, item["metadata"]["name"], mine)
    case.change(autoscaling=None, image="worker:2")
    case.wait("both to be deleted", lambda: all(len(going(case, kind)) == 1 for kind in kept))
    case.wait_settled(1)
    case.assert_quiet(1)
    for kind in kept:
        (item,) = going(case, kind)
        path = kind.path(case.namespace, item["metadata"]["name"])
        assert [call.method for call in case.proxy.writes() if call.path == path].count("DELETE") == 1
        case.client.patch(kind, case.namespace, item["metadata"]["name"], {"metadata": {"finalizers": None}})
    assert not case.items(AUTOSCALERS) and len(case.items(REVISIONS)) == 1


CHANGES: dict[str, tuple[Kind, dict[str, Any]]] = {
    "a Service's port": (SERVICES, {"spec": {"ports": [{"name": "http", "port": 9000, "targetPort": "http"}]}}),
    "a Service's targetPort": (SERVICES, {"spec": {"ports": [{"name": "http", "port": 8000, "targetPort": 9999}]}}),
    "a port's name": (SERVICES, {"spec": {"ports": [{"name": "other", "port": 8000, "targetPort": "http"}]}}),
    "a Service's selector": (SERVICES, {"spec": {"selector": {"vernal.dev/pool": "other"}}}),
    "a budget": (BUDGETS, {"spec": {"maxUnavailable": 7}}),
    "an autoscaler": (AUTOSCALERS, {"spec": {"maxReplicas": 99}}),
    "an autoscaler's metrics": (AUTOSCALERS, {"spec": {"metrics": None}}),
}
AVERAGE = {
    "type": "Resource",
    "resource": {"name": "cpu", "target": {"type": "AverageValue", "averageValue": "1000m"}},  # kept as 1
}


def test_children_that_someone_edits_are_put_back(case: Case) -> None:
    case.start()
    case.create(pool(replicas=1, autoscaling={"maxReplicas": 4, "metrics": [AVERAGE]}))
    case.wait_settled(1)
    case.assert_quiet(1)
    wanted = {kind: spec_of(case, kind) for kind in (SERVICES, BUDGETS, AUTOSCALERS)}
    for name, (kind, change) in CHANGES.items():
        if kind is SERVICES and "ports" in change["spec"]:  # a merge patch replaces the list
            (port,), (wrong,) = spec_of(case, kind)["ports"], change["spec"]["ports"]
            assert port | wrong != port, "it changes something"
        before = len(case.proxy.writes())
        case.client._json("patch", kind, kind.path(case.namespace, POOL), {"fieldManager": "kubectl-edit"}, change)
        case.wait(f"{name} to be put back", lambda kind=kind: spec_of(case, kind) == wanted[kind])  # type: ignore[misc]
        case.wait("the write", lambda before=before: len(case.proxy.writes()) > before)  # type: ignore[misc]
        case.assert_quiet(1)  # some take two, and the second one would take the next edit along


def spec_of(case: Case, kind: Kind) -> dict[str, Any]:
    found: dict[str, Any] = case.client.get(kind, case.namespace, POOL)["spec"]
    return found
