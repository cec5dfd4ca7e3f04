"""A hundred pools and their pods on a real API server, made at once, as if the operator had made them long ago."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

from controlplane.cases import CORE, pool
from controlplane.node import pod_status, state_of
from vernal_contract.state import encode
from vernal_operator.api.parse import parse_pool
from vernal_operator.build.meta import pool_owner
from vernal_operator.build.pod import worker_pod
from vernal_operator.client import Client
from vernal_operator.kinds import PODS, POOLS
from vernal_operator.plan.revision import revision
from workers import address

NAMESPACES = 10
_LONG_AGO = "2026-01-01T00:00:00Z"  # an operator that starts announces anew what is young
THREADS = 16


def namespace(number: int) -> str:
    """Of the `number`th pool."""
    return f"bench-{number % NAMESPACES}"


def name(number: int) -> str:
    return f"pool-{number}"


def make(client: Client, pools: int, replicas: int) -> list[bytes]:
    """Make it all. Returns what the workers answer, in the order of `workers.address`."""
    with ThreadPoolExecutor(THREADS) as threads:
        for number in range(min(pools, NAMESPACES)):
            _namespace(client, namespace(number))
        manifests = [pod for number in range(pools) for pod in _pool(client, number, replicas)]
        list(threads.map(lambda item: _pod(client, *item), enumerate(manifests)))
    return [encode(state_of(manifest, ready=True, known=True)) for manifest in manifests]


def _namespace(client: Client, called: str) -> None:
    client.create(CORE["Namespace"], "", {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": called}})
    account = {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "default"}}
    client.create(CORE["ServiceAccount"], called, account)
    claim = {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": {"name": "store"},
        "spec": {"accessModes": ["ReadWriteMany"], "resources": {"requests": {"storage": "1Gi"}}},
    }
    client.create(CORE["PersistentVolumeClaim"], called, claim)


def _pool(client: Client, number: int, replicas: int) -> list[dict[str, Any]]:
    wanted = pool(replicas=replicas, model={"name": f"model-{number}"})
    wanted["metadata"]["name"] = name(number)
    made = client.create(POOLS, namespace(number), wanted)
    spec, why = parse_pool(made)
    assert spec is not None, why
    owner = pool_owner(name(number), namespace(number), made["metadata"]["uid"])
    return [worker_pod(owner, spec, revision(spec), slot) for slot in range(replicas)]


def _pod(client: Client, number: int, manifest: dict[str, Any]) -> None:
    manifest["spec"]["nodeName"] = f"node-{number % 100}"
    made = client.create(PODS, manifest["metadata"]["namespace"], manifest)
    set_status(client, made, pod_status(address(number), ready=True, since=_LONG_AGO))


def set_status(client: Client, pod: dict[str, Any], status: dict[str, Any]) -> None:
    path = PODS.path(pod["metadata"]["namespace"], pod["metadata"]["name"], "status")
    client._json("patch", PODS, path, None, {"metadata": {"uid": pod["metadata"]["uid"]}, "status": status})
