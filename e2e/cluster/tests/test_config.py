"""What is rendered is well-formed, consistent, and keeps to the cluster's own places."""

from __future__ import annotations

import base64
import ipaddress
import itertools
import json
import tomllib
from pathlib import Path

import pytest
from cluster import config, layout, member
from cluster.build import Binaries
from cluster.layout import Node, State
from cluster.packages import Packages
from common.cache import cache_dir

STATE = State(Path("/somewhere/state"))
FIRST, SECOND = Node(STATE, 1), Node(STATE, 2)
PACKAGES = Packages(Path("/somewhere/packages"))
BINARIES = Binaries(Path("/somewhere/binaries"), "v1.37.2")


def test_the_networks_are_disjoint_parts_of_one() -> None:
    whole = ipaddress.IPv4Network(layout.NETWORK)
    services = ipaddress.IPv4Network(layout.SERVICE_CIDR)
    parts = [services, *(ipaddress.IPv4Network(node.pod_cidr) for node in (FIRST, SECOND))]
    addresses = [ipaddress.IPv4Address(node.address) for node in (FIRST, SECOND)]
    assert all(part.subnet_of(whole) for part in parts)
    assert not any(one.overlaps(other) for one, other in itertools.combinations(parts, 2))
    assert len(set(addresses)) == 2 and all(address in whole for address in addresses)
    assert not any(address in part for address in addresses for part in parts)
    assert FIRST.address == layout.NODE_IP
    # The API server takes the first address of the range for the Service `kubernetes`.
    assert next(services.hosts()) == ipaddress.ip_address(layout.KUBERNETES_SERVICE_IP)


@pytest.mark.parametrize("node", [FIRST, SECOND], ids=lambda node: node.name)
def test_containerd_keeps_to_its_own_folders_and_lives_without_cap_sys_resource(node: Node) -> None:
    parsed = tomllib.loads(config.containerd_config(PACKAGES, node))
    cri = parsed["plugins"]["io.containerd.grpc.v1.cri"]
    runc = cri["containerd"]["runtimes"]["runc"]
    assert cri["restrict_oom_score_adj"] is True
    assert runc["options"]["SystemdCgroup"] is False
    assert runc["options"]["BinaryName"].startswith(str(PACKAGES.root))
    for path in (parsed["root"], parsed["state"], parsed["grpc"]["address"], runc["options"]["Root"]):
        assert Path(path).is_relative_to(node.state.root)
        assert Path(path).is_relative_to(STATE.nodes) == (node is SECOND)
    assert cri["sandbox_image"] == layout.PAUSE_IMAGE


@pytest.mark.parametrize("node", [FIRST, SECOND], ids=lambda node: node.name)
def test_the_kubelet_takes_cgroup_v1_and_never_collects_images(node: Node) -> None:
    kubelet = json.loads(config.kubelet_config(node))
    assert kubelet["failCgroupV1"] is False
    assert kubelet["cgroupDriver"] == "cgroupfs"
    assert kubelet["imageGCHighThresholdPercent"] == 100
    assert kubelet["containerRuntimeEndpoint"] == f"unix://{node.state.containerd_socket}"
    assert kubelet["authentication"]["anonymous"]["enabled"] is False
    assert kubelet["authentication"]["x509"]["clientCAFile"] == f"{STATE.pki}/ca.crt"


def test_the_first_kubelet_has_its_certificate_and_another_asks_for_one() -> None:
    first, second = (json.loads(config.kubelet_config(node)) for node in (FIRST, SECOND))
    assert "tlsCertFile" in first and "serverTLSBootstrap" not in first and "cgroupRoot" not in first
    assert second["serverTLSBootstrap"] is True and "tlsCertFile" not in second
    assert second["cgroupRoot"] == "/vernal-node-2"
    assert not any("bootstrap" in flag for flag in config.kubelet(BINARIES, FIRST))
    assert f"--bootstrap-kubeconfig={STATE.kubeconfig}" in config.kubelet(BINARIES, SECOND)


@pytest.mark.parametrize("node", [FIRST, SECOND], ids=lambda node: node.name)
def test_pods_get_addresses_from_their_nodes_network(node: Node) -> None:
    (plugin,) = json.loads(config.cni_config(node))["plugins"]
    assert plugin["ipam"]["ranges"] == [[{"subnet": node.pod_cidr}]]
    assert json.loads(config.kube_proxy_config(node))["clusterCIDR"] == node.pod_cidr


def test_the_nodes_are_those_that_have_a_directory_and_the_first(tmp_path: Path) -> None:
    state = State(tmp_path)
    assert layout.nodes(state) == [Node(state, 1)]
    Node(state, 2).state.root.mkdir(parents=True)
    assert layout.nodes(state) == [Node(state, 1), Node(state, 2)]


def test_only_a_nodes_own_request_for_its_server_that_waits_is_granted() -> None:
    def request(name: str, signer: str, user: str, **status: object) -> dict[str, object]:
        return {"metadata": {"name": name}, "spec": {"signerName": signer, "username": user}, "status": status}

    serving, own = "kubernetes.io/kubelet-serving", "system:node:vernal-node-2"
    asked = [
        request("waits", serving, own),
        request("granted", serving, own, conditions=[{"type": "Approved"}]),
        request("of-another", serving, "system:node:vernal-node-3"),
        request("client", "kubernetes.io/kube-apiserver-client-kubelet", own),
    ]
    assert member.serving_requests(asked, "vernal-node-2") == ["waits"]


def test_every_listener_of_the_control_plane_is_on_the_given_address() -> None:
    plane = config.ControlPlane(Path("/pki"), Path("/data"), "127.0.0.1", 1234, 2345, "10.0.0.0/24")
    etcd, server = config.etcd(BINARIES, plane), config.apiserver(BINARIES, plane)
    listeners = [flag for flag in [*etcd, *server] if "listen" in flag or "bind-address" in flag]
    assert len(listeners) == 3
    assert all("127.0.0.1" in flag for flag in listeners)
    assert "--authorization-mode=Node,RBAC" in server
    assert f"--etcd-servers=https://127.0.0.1:{plane.etcd_port}" in server


def test_a_kubeconfig_carries_its_certificates(tmp_path: Path) -> None:
    for name in ("ca.crt", "admin.crt", "admin.key"):
        (tmp_path / name).write_text(name)
    rendered = json.loads(config.kubeconfig("https://127.0.0.1:1", tmp_path, "admin"))
    user = rendered["users"][0]["user"]
    assert base64.b64decode(user["client-key-data"]) == b"admin.key"
    assert rendered["clusters"][0]["cluster"]["server"] == "https://127.0.0.1:1"


def test_places_follow_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VERNAL_CACHE", "/one")
    monkeypatch.setenv("VERNAL_STATE", "/two")
    assert (cache_dir(), layout.state_dir()) == (Path("/one"), Path("/two"))
    monkeypatch.delenv("VERNAL_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", "/three")
    monkeypatch.delenv("VERNAL_STATE")
    assert (cache_dir(), layout.state_dir()) == (Path("/three/vernal"), Path("/var/lib/vernal-cluster"))
