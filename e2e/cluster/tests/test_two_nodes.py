"""A cluster of two nodes on this machine: pods on both reach each other, and one of the nodes goes and comes back.

Not part of `make test`: `make two-nodes` runs it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cluster import host, layout, leftovers, proc
from cluster.layout import Node, State
from cluster.member import HOLDER, Member
from cluster.trial import cluster, curl, names, nothing_left, rolled_out
from patience import until

pytestmark = pytest.mark.two_nodes

FIRST, SECOND = "vernal-node", "vernal-node-2"


@pytest.fixture(scope="module")
def state(before: leftovers.Snapshot, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    directory = tmp_path_factory.mktemp("two") / "state"
    cluster(directory, "up", "--nodes", "2")
    yield directory
    cluster(directory, "clean")
    assert not directory.exists()
    nothing_left(before)


@pytest.fixture(scope="module")
def web(state: Path) -> str:
    """The address of a Service with two ready pods behind it, one on each node."""
    return rolled_out(state)


def get(state: Path, *what: str) -> Any:
    return json.loads(cluster(state, "kubectl", "get", *what, "-o", "json").stdout)


def pods(state: Path) -> list[dict[str, Any]]:
    """The ready ones behind the Service that stay."""
    return [
        pod
        for pod in get(state, "pods", "-l", "app=web")["items"]
        if "deletionTimestamp" not in pod["metadata"] and is_true(pod, "Ready")
    ]


def is_true(found: dict[str, Any], kind: str) -> bool:
    conditions = found["status"].get("conditions", [])
    return any(each["type"] == kind and each["status"] == "True" for each in conditions)


def is_ready(state: Path, node: str) -> bool:
    return is_true(get(state, "node", node), "Ready")


def where(state: Path) -> list[str]:
    return sorted(pod["spec"]["nodeName"] for pod in pods(state))


def second(state: Path) -> Member:
    return Member(Node(State(state), 2))


def fetch(state: Path, pod: str, url: str) -> str:
    return cluster(state, "kubectl", "exec", pod, "--", "/pod", "get", url).stdout.strip()


def test_pods_of_both_nodes_reach_each_other_services_and_the_api(state: Path, web: str) -> None:
    assert where(state) == [FIRST, SECOND]
    everybody = {name.removeprefix("pod/") for name in names(state)}
    until("both to answer the machine", lambda: {curl(f"http://{web}") for _ in range(20)} == everybody)
    for pod in pods(state):
        name = pod["metadata"]["name"]
        for other in pods(state):
            address = other["status"]["podIP"]
            assert fetch(state, name, f"http://{address}:8080") == other["metadata"]["name"]
            assert curl(f"http://{address}:8080") == other["metadata"]["name"]
        # Twenty times, so that it also meets itself behind the Service.
        assert {fetch(state, name, f"http://{web}") for _ in range(20)} == everybody
        assert "gitVersion" in fetch(state, name, f"https://{layout.KUBERNETES_SERVICE_IP}/version")


def test_the_hosts_are_unlike_each_other_but_for_what_is_shared(state: Path, web: str) -> None:
    nodes = [get(state, "node", name) for name in (FIRST, SECOND)]
    assert len({node["status"]["nodeInfo"]["machineID"] for node in nodes}) == 2
    holder = second(state).processes.running(HOLDER)
    assert holder is not None
    there = Path(f"/proc/{holder.pid}/root")
    for name in ("local", "volumes"):
        (state / name).mkdir(exist_ok=True)
        (state / name / "mark").touch()
        assert (there / (state / name / "mark").relative_to("/")).exists() == (name == "volumes")
    of_second = host.pod_processes([SECOND])
    assert of_second and all("/vernal-node-2/kubepods/" in groups(record) for record in of_second)
    first_ones = host.pod_processes(["kubepods"])
    assert first_ones and not {record.pid for record in first_ones} & {record.pid for record in of_second}


def groups(record: proc.Record) -> str:
    return Path(f"/proc/{record.pid}/cgroup").read_text()


def test_a_second_up_does_nothing_and_does_not_take_the_node_away(state: Path, web: str) -> None:
    cluster(state, "status")
    assert "was up already" in cluster(state, "up").stderr
    assert "was up already" in cluster(state, "up", "--nodes", "2").stderr


def test_a_drained_nodes_pods_go_to_the_other(state: Path, web: str) -> None:
    cluster(state, "kubectl", "drain", SECOND, "--ignore-daemonsets", "--force")
    until("both pods to be on the first node", lambda: where(state) == [FIRST, FIRST])
    cluster(state, "kubectl", "uncordon", SECOND)
    cluster(state, "kubectl", "rollout", "restart", "deployment/web")
    until("a pod to be on each node again", lambda: where(state) == [FIRST, SECOND])


def test_a_lost_nodes_pods_are_replaced_on_the_other_and_it_comes_back(state: Path, web: str) -> None:
    cluster(state, "node", "stop", SECOND)
    assert not host.pod_processes([SECOND]) and not list(proc.owned(str(second(state).node.state.root)))
    assert cluster(state, "status", check=False).returncode == 1
    until("Kubernetes to miss the node", lambda: not is_ready(state, SECOND))
    taint = "node.kubernetes.io/out-of-service=nodeshutdown:NoExecute"  # an administrator's word that it is off
    cluster(state, "kubectl", "taint", "node", SECOND, taint)
    until("both pods to be on the first node", lambda: where(state) == [FIRST, FIRST])
    everybody = {pod["metadata"]["name"] for pod in pods(state)}
    until("both to answer", lambda: {curl(f"http://{web}") for _ in range(20)} == everybody)
    cluster(state, "node", "start", SECOND)
    cluster(state, "kubectl", "taint", "node", SECOND, f"{taint}-")
    assert is_ready(state, SECOND)
    cluster(state, "kubectl", "rollout", "restart", "deployment/web")
    until("a pod to be on each node again", lambda: where(state) == [FIRST, SECOND])


def test_what_was_killed_of_it_is_repaired_and_its_pod_lives_on(state: Path, web: str) -> None:
    pod = {record.pid for record in host.pod_processes([SECOND])}
    for name in ("kubelet", "containerd", "kube-proxy"):
        second(state).processes.kill(name)
    repaired = cluster(state, "up").stderr
    assert "kubelet of vernal-node-2" in repaired and pod == {each.pid for each in host.pod_processes([SECOND])}
    until("both to answer", lambda: len({curl(f"http://{web}") for _ in range(20)}) == 2)


def test_down_leaves_nothing_up_brings_both_back_and_one_can_go_for_good(
    state: Path, web: str, before: leftovers.Snapshot
) -> None:
    cluster(state, "down")
    nothing_left(before)
    cluster(state, "up")
    until("a pod to be on each node again", lambda: where(state) == [FIRST, SECOND])
    cluster(state, "up", "--nodes", "1")
    assert [node["metadata"]["name"] for node in get(state, "nodes")["items"]] == [FIRST]
    assert not second(state).node.state.root.exists() and not host.pod_processes([SECOND])
    until("both pods to be on the first node", lambda: where(state) == [FIRST, FIRST])
