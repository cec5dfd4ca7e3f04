"""What the machine says is read rightly."""

from __future__ import annotations

import json
import socket
from pathlib import Path

import pytest
from cluster import host, layout, leftovers, proc
from cluster.errors import ClusterError
from cluster.layout import Node, State
from cluster.node import Cluster
from common.ports import free_port
from common.tools import ToolError

MOUNTINFO = r"""
22 1 254:0 / / rw,relatime - ext4 /dev/vda rw
40 22 0:40 / /state/run/one rw - tmpfs shm rw
41 40 0:41 / /state/run/one/with\040space\134 rw - tmpfs shm rw
42 22 0:42 / /state-of-another rw - tmpfs shm rw
""".lstrip()


def test_mounts_below_are_found_innermost_first_and_unescaped() -> None:
    found = host.mount_points(MOUNTINFO, Path("/state"))
    assert found == ["/state/run/one/with space\\", "/state/run/one"]


def test_a_port_is_free_until_somebody_listens() -> None:
    port = free_port()
    with socket.create_server(("127.0.0.1", port)):
        assert not host.port_free("127.0.0.1", port)
    assert host.port_free("127.0.0.1", port)


def test_a_taken_port_is_named_with_what_to_do(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        monkeypatch.setattr(host, "NODE_IP", "127.0.0.1")
        monkeypatch.setattr(host, "PORTS", {port: "kubelet (health)"})
        with pytest.raises(ClusterError, match=rf"port {port} is taken.*kubelet.*KUBECONFIG"):
            host.preflight(State(tmp_path), running=set())
        host.preflight(State(tmp_path), running={"kubelet"})


def test_who_is_not_root_is_told_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    for action in (Cluster(State(tmp_path)).up, Cluster(State(tmp_path)).down, Cluster(State(tmp_path)).clean):
        with pytest.raises(ClusterError, match=r"root.*sudo"):
            action()
    assert list(tmp_path.iterdir()) == []


def test_a_state_directory_too_deep_for_sockets_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host, "PORTS", {})
    with pytest.raises(ClusterError, match="VERNAL_STATE"):
        host.preflight(State(Path("/" + "x" * 90)), running=set())


def test_a_second_node_where_memory_is_short_is_refused_and_told_of_one(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(host, "PORTS", {})
    monkeypatch.setattr(host, "ROOM", 1e-6)
    monkeypatch.setattr(host, "MEMORY", 1e9)
    state = State(tmp_path)
    host.preflight(state, running=set())
    with pytest.raises(ToolError, match=r"2e\+09 GiB of memory must be available for 2 nodes.*`up --nodes 1`"):
        host.preflight(state, running=set(), more=[Node(state, 2)])
    with pytest.raises(ToolError, match=r"1e\+09 GiB of memory must be available for a node"):
        host.preflight(state, running={"kubelet"}, more=[Node(state, 2)])


def test_only_a_second_node_can_be_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.geteuid", lambda: 0)
    for action in (Cluster(State(tmp_path)).stop_node, Cluster(State(tmp_path)).start_node):
        with pytest.raises(ClusterError, match="vernal-node carries the control plane"):
            action("vernal-node")
        with pytest.raises(ClusterError, match=r"no node vernal-node-2.*up --nodes 2"):
            action("vernal-node-2")


def test_a_record_is_kept_in_its_boot_and_outlives_it_as_to_directories(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    made, there = tmp_path / "made", tmp_path / "there"
    there.mkdir()
    monkeypatch.setattr(host, "DIRECTORIES", (str(made), str(there)))
    state = State(tmp_path / "state")
    host.remember(state)
    made.mkdir()
    first = state.host_record.read_text()
    host.remember(state)
    assert state.host_record.read_text() == first
    monkeypatch.setattr(proc, "boot_id", lambda: "another")
    state.run.mkdir()
    host.remember(state)
    record = json.loads(state.host_record.read_text())
    assert (record["boot_id"], record["absent"]) == ("another", [str(made)])
    assert not state.run.exists()


def test_every_port_of_the_node_is_checked_once() -> None:
    assert {layout.API_PORT, layout.ETCD_PORT, layout.KUBELET_PORT} <= layout.PORTS.keys()


def test_differences_name_what_came_and_what_went() -> None:
    before = {"links": ["eth0", "lo"], "mounts": ["/"]}
    after = {"links": ["lo", "veth1"], "mounts": ["/"]}
    assert leftovers.differences(before, before) == []
    assert leftovers.differences(before, after) == ["links: left behind: veth1", "links: gone: eth0"]
