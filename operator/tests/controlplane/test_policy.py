"""What the chart's ValidatingAdmissionPolicy says at `kubectl apply`, on a real API server."""

import json
import subprocess
from collections.abc import Callable
from typing import Any

import pytest
from api.test_parse import GOOD, everyday_overlay
from cluster.apiserver import ApiServer
from controlplane.cases import CORE, Server
from controlplane.chart import KINDS, install, rendered
from patience import until
from vernal_contract import names
from vernal_operator.kinds import POOLS

pytestmark = pytest.mark.apiserver

POLICY, BINDING = KINDS["ValidatingAdmissionPolicy"], KINDS["ValidatingAdmissionPolicyBinding"]
Apply = Callable[..., tuple[int, str]]
NO_HOST_PID = "hostPID cannot be set: it would give the pool's creator the node's processes"


@pytest.fixture(scope="module")
def apply(server: Server, api: ApiServer) -> Apply:
    """kubectl apply of a pool with these fields, as a dry run; returns status and what it said."""
    server.client.create(
        CORE["Namespace"], "", {"metadata": {"name": "policy"}, "apiVersion": "v1", "kind": "Namespace"}
    )

    def run(namespace: str = "policy", **fields: Any) -> tuple[int, str]:
        spec = {name: value for name, value in (GOOD | fields).items() if value is not None}
        pool = {"apiVersion": names.API_VERSION, "kind": POOLS.name, "metadata": {"name": "p"}, "spec": spec}
        command = [
            api.kubectl,
            f"--kubeconfig={api.kubeconfig}",
            "-n",
            namespace,
            "apply",
            "--dry-run=server",
            "-f",
            "-",
        ]
        done = subprocess.run(command, input=json.dumps(pool), capture_output=True, text=True, check=False)
        return done.returncode, done.stdout + done.stderr

    until("the policy to be in force", lambda: NO_HOST_PID in run(podTemplate={"spec": {"hostPID": True}})[1])
    return run


@pytest.mark.every_release
def test_what_an_overlay_is_for_is_let_in(apply: Apply) -> None:
    status, text = apply(podTemplate={"metadata": {"labels": {"team": "x"}}, "spec": everyday_overlay()})
    assert status == 0, text
    status, text = apply()
    assert status == 0, text


def test_a_pool_that_is_there_is_not_asked_until_its_spec_changes(server: Server, api: ApiServer, apply: Apply) -> None:
    """Pools from before the policy can still be labelled, scaled and deleted."""
    binding = next(d for d in rendered(server.helm, "vernal") if d["kind"] == BINDING.name)
    found = server.client.get(BINDING, None, binding["metadata"]["name"])
    server.client.delete(BINDING, "", binding["metadata"]["name"], found["metadata"]["uid"])
    try:
        bad = GOOD | {"podTemplate": {"spec": {"hostPID": True}}}
        pool = {"apiVersion": names.API_VERSION, "kind": POOLS.name, "metadata": {"name": "old"}, "spec": bad}
        until("the policy to be out of force", lambda: apply(podTemplate={"spec": {"hostPID": True}})[0] == 0)
        made = server.client.create(POOLS, "policy", pool)
    finally:
        install(server.client, [binding])
    until("the policy to be in force", lambda: NO_HOST_PID in apply(podTemplate={"spec": {"hostPID": True}})[1])
    server.client.patch(POOLS, "policy", "old", {"metadata": {"labels": {"team": "x"}}})
    with pytest.raises(Exception, match=NO_HOST_PID):
        server.client.patch(POOLS, "policy", "old", {"spec": {"image": "worker:2"}})
    scale = [api.kubectl, f"--kubeconfig={api.kubeconfig}", "-n", "policy", "scale", "vwp/old", "--replicas=0"]
    assert subprocess.run(scale, check=False).returncode == 0
    server.client.delete(POOLS, "policy", "old", made["metadata"]["uid"])


def test_images_and_creators_are_the_charts_decision(server: Server, apply: Apply) -> None:
    name = "strict"
    server.client.create(CORE["Namespace"], "", {"metadata": {"name": name}, "apiVersion": "v1", "kind": "Namespace"})
    settings = (
        "crds.install=false", f"watchNamespace={name}",
        "admissionPolicy.images={registry.example.com/vernal/,docker.io/library/proxy:}",
        "admissionPolicy.creators.groups={platform}",
    )  # fmt: skip
    documents = [d for d in rendered(server.helm, name, *settings) if d["kind"].startswith("ValidatingAdmission")]
    assert len(documents) == 4, "of pools and of checkpoints"
    groups = {"admissionPolicy.creators.groups={system:masters}"}
    install(server.client, documents)
    until("the policy to be in force", lambda: apply(name)[0] != 0)
    status, text = apply(name)
    assert status != 0 and "may not be made or changed by" in text and "admissionPolicy.creators" in text, text
    install(server.client, [d for d in rendered(server.helm, name, *settings[:3], *groups) if d["kind"] == POLICY.name])
    until("the new groups to be in force", lambda: "may not be made" not in apply(name)[1])
    status, text = apply(name, image="registry.example.com/vernal-evil/worker:1")
    assert status != 0 and "registry.example.com/vernal-evil/worker:1" in text and "admissionPolicy.images" in text, (
        text
    )
    image = "registry.example.com/vernal/worker:1"
    assert apply(name, image=image)[0] == 0
    sidecar = {"name": "side", "image": "evil:1"}
    for field in ("containers", "initContainers"):
        status, text = apply(name, image=image, podTemplate={"spec": {field: [sidecar]}})
        assert status != 0 and "evil:1" in text, text
        good = sidecar | {"image": "docker.io/library/proxy:3"}
        assert apply(name, image=image, podTemplate={"spec": {field: [good]}})[0] == 0
    assert apply()[0] == 0, "other namespaces are none of this policy's business"


def test_it_is_there_only_where_it_can_be_and_is_wanted(server: Server) -> None:
    for documents in (
        rendered(server.helm, "vernal", policies=False),
        rendered(server.helm, "vernal", "admissionPolicy.enabled=false"),
    ):
        assert not [d for d in documents if d["kind"].startswith("ValidatingAdmission")]
