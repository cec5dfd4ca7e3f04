"""What is rendered is well-formed, consistent, and keeps to the cluster's own places."""

from __future__ import annotations

import base64
import ipaddress
import json
import tomllib
from pathlib import Path

import pytest
from cluster import config, layout
from cluster.build import Binaries
from cluster.layout import State
from cluster.packages import Packages
from common.cache import cache_dir

STATE = State(Path("/somewhere/state"))
PACKAGES = Packages(Path("/somewhere/packages"))
BINARIES = Binaries(Path("/somewhere/binaries"), "v1.37.2")


def test_the_networks_are_disjoint_parts_of_one() -> None:
    whole, pods, services = (
        ipaddress.ip_network(cidr) for cidr in (layout.NETWORK, layout.POD_CIDR, layout.SERVICE_CIDR)
    )
    node = ipaddress.ip_address(layout.NODE_IP)
    assert isinstance(whole, ipaddress.IPv4Network)
    for part in (pods, services):
        assert isinstance(part, ipaddress.IPv4Network) and part.subnet_of(whole)
    assert not pods.overlaps(services)
    assert node in whole and node not in pods and node not in services
    # The API server takes the first address of the range for the Service `kubernetes`.
    assert next(services.hosts()) == ipaddress.ip_address(layout.KUBERNETES_SERVICE_IP)


def test_containerd_keeps_to_its_own_folders_and_lives_without_cap_sys_resource() -> None:
    parsed = tomllib.loads(config.containerd_config(PACKAGES, STATE))
    cri = parsed["plugins"]["io.containerd.grpc.v1.cri"]
    runc = cri["containerd"]["runtimes"]["runc"]
    assert cri["restrict_oom_score_adj"] is True
    assert runc["options"]["SystemdCgroup"] is False
    assert runc["options"]["BinaryName"].startswith(str(PACKAGES.root))
    for path in (parsed["root"], parsed["state"], parsed["grpc"]["address"], runc["options"]["Root"]):
        assert Path(path).is_relative_to(STATE.root)
    assert cri["sandbox_image"] == layout.PAUSE_IMAGE


def test_the_kubelet_takes_cgroup_v1_and_never_collects_images() -> None:
    kubelet = json.loads(config.kubelet_config(STATE))
    assert kubelet["failCgroupV1"] is False
    assert kubelet["cgroupDriver"] == "cgroupfs"
    assert kubelet["imageGCHighThresholdPercent"] == 100
    assert kubelet["containerRuntimeEndpoint"] == f"unix://{STATE.containerd_socket}"
    assert kubelet["authentication"]["anonymous"]["enabled"] is False


def test_pods_get_addresses_from_the_pods_network() -> None:
    (plugin,) = json.loads(config.cni_config(STATE))["plugins"]
    assert plugin["ipam"]["ranges"] == [[{"subnet": layout.POD_CIDR}]]
    assert json.loads(config.kube_proxy_config(STATE))["clusterCIDR"] == layout.POD_CIDR


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
