"""Where things are: directories and addresses."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

NODE_NAME = "vernal-node"
# All of the cluster lives in one private network that exists on this machine only.
# The first node's address is an extra one on lo, so nothing depends on the machine's own network.
NETWORK = "10.255.0.0/16"
NODE_IP = "10.255.0.1"
POD_CIDR = "10.255.16.0/20"
SERVICE_CIDR = "10.255.32.0/20"
KUBERNETES_SERVICE_IP = "10.255.32.1"

API_PORT = 6443
ETCD_PORT = 2379
KUBELET_PORT = 10250
#: Every port that must be free on the first node's address before a first start, and whose it is.
PORTS = {
    API_PORT: "kube-apiserver",
    ETCD_PORT: "etcd",
    KUBELET_PORT: "kubelet",
    10248: "kubelet (health)",
    10257: "kube-controller-manager",
    10259: "kube-scheduler",
    10249: "kube-proxy (metrics)",
    10256: "kube-proxy (health)",
}

PAUSE_IMAGE = "vernal.dev/cluster/pause:1"
#: How many nodes there can be at most.
MAX_NODES = 2


def state_dir() -> Path:
    """The directory of the cluster itself: its data, keys, logs and process records (`VERNAL_STATE`)."""
    return Path(os.environ.get("VERNAL_STATE") or "/var/lib/vernal-cluster").absolute()


@dataclass(frozen=True)
class State:
    """The paths inside one state directory. `run` holds what does not outlive a `down`."""

    root: Path

    @property
    def run(self) -> Path:
        return self.root / "run"

    @property
    def logs(self) -> Path:
        return self.root / "logs"

    @property
    def config(self) -> Path:
        return self.root / "config"

    @property
    def pki(self) -> Path:
        return self.root / "pki"

    @property
    def bin(self) -> Path:
        return self.root / "bin"

    @property
    def etcd(self) -> Path:
        return self.root / "etcd"

    @property
    def kubelet(self) -> Path:
        return self.run / "kubelet"

    @property
    def kubeconfig(self) -> Path:
        """The administrator's kubeconfig, which users export as KUBECONFIG."""
        return self.root / "kubeconfig"

    @property
    def containerd_socket(self) -> Path:
        return self.run / "containerd.sock"

    @property
    def local(self) -> Path:
        """Where each of two nodes has a disk of its own, for pods' hostPaths; what is beside it they share."""
        return self.root / "local"

    @property
    def nodes(self) -> Path:
        """A directory for each node but the first."""
        return self.root / "nodes"

    @property
    def host_record(self) -> Path:
        """What the machine looked like before `up` changed it; see `host.py`."""
        return self.root / "host-before.json"


@dataclass(frozen=True)
class Node:
    """A node of the cluster by its number. The first is the machine itself; others are namespaces on it."""

    cluster: State
    number: int

    @property
    def first(self) -> bool:
        return self.number == 1

    @property
    def name(self) -> str:
        return NODE_NAME if self.first else f"{NODE_NAME}-{self.number}"

    @property
    def address(self) -> str:
        return f"10.255.0.{self.number}"

    @property
    def pod_cidr(self) -> str:
        return POD_CIDR if self.first else f"10.255.{16 * (self.number + 1)}.0/20"  # after that of Services

    @property
    def cgroup(self) -> str:
        """The cgroup, in every hierarchy, that those of its pods are in."""
        return "/" if self.first else f"/{self.name}"

    @property
    def link(self) -> str:
        """The machine's end of the cable to a node that is not the machine."""
        return f"vethnode{self.number}"

    @property
    def state(self) -> State:
        """Its own part of the state directory, laid out as the cluster's, which the first node's is."""
        return self.cluster if self.first else State(self.cluster.nodes / self.name)


def nodes(state: State) -> list[Node]:
    """The nodes that the cluster of a state directory has, whether they run or not; the first always."""
    numbered = [Node(state, number) for number in range(1, MAX_NODES + 1)]
    return [node for node in numbered if node.first or node.state.root.exists()]
