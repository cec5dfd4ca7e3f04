"""The cluster: brings its processes up, tells how they are, takes them down. One node, or more."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Sequence
from pathlib import Path

from common.lock import locked
from common.progress import duration, say, step

from cluster import api, build, config, host, layout, member, packages, pki, proc
from cluster.build import Binaries
from cluster.command import run
from cluster.errors import ClusterError
from cluster.layout import Node, State
from cluster.member import Member
from cluster.packages import Packages

CONTROL_PLANE = ("etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler")
COMPONENTS = (*CONTROL_PLANE, *member.COMPONENTS)
#: What each part of the control plane that calls the API server is, as a file name in `pki` and `config`.
_CLIENTS = ("controller-manager", "scheduler")


def foreign_kubeconfig(state: State) -> str | None:
    """The user's own cluster, if KUBECONFIG names one that is not the embedded cluster's."""
    named = os.environ.get("KUBECONFIG")
    return named if named and Path(named).absolute() != state.kubeconfig else None


class Cluster:
    """The embedded cluster of one state directory."""

    def __init__(self, state: State) -> None:
        self.state = state
        self._processes = proc.Processes(state.run, state.logs, str(state.root))
        self._plane = config.ControlPlane(
            pki=state.pki, etcd_data=state.etcd, address=layout.NODE_IP, api_port=layout.API_PORT,
            etcd_port=layout.ETCD_PORT, service_cidr=layout.SERVICE_CIDR,
        )  # fmt: skip

    def up(self, count: int | None = None) -> None:
        """Bring up whatever does not run yet, and wait until pods can be made.

        `count` is how many nodes there shall be; without it, as many as there are, at first one.

        Raises ClusterError if that cannot be done, naming the step and the log to read.
        """
        _need_root()
        with locked(self.state.root, "changing the cluster"):
            began = time.monotonic()
            had = layout.nodes(self.state)
            first, *others = [Member(Node(self.state, n)) for n in range(1, (count or len(had)) + 1)]
            running = {name for name in COMPONENTS if self._processes.running(name)}
            host.preflight(self.state, running, [other.node for other in others if other.lost])
            tools = packages.ensure()
            binaries = build.ensure()
            host.prepare(self.state)
            if others:
                host.attach_disk(first.node)
            pki.ensure(binaries, self.state.pki, layout.NODE_NAME, [layout.NODE_IP, layout.KUBERNETES_SERVICE_IP])
            self._write_config(binaries, tools)
            started = self._start(first, binaries, tools)
            self._wait(first, binaries)
            for other in others:
                started += self._join(other, binaries, tools)
            for node in had[1 + len(others) :]:
                self._remove(Member(node), binaries)
            what = f"started {', '.join(started)}" if started else "was up already"
            took = time.monotonic() - began
            say(f"Kubernetes {binaries.version} at {self._plane.url}: {what} ({duration(took)})")

    def _write_config(self, binaries: Binaries, tools: Packages) -> None:
        state, url = self.state, self._plane.url
        state.config.mkdir(parents=True, exist_ok=True)
        state.bin.mkdir(exist_ok=True)
        member.write({
            state.kubeconfig: config.kubeconfig(url, state.pki, "admin"),
            **{state.config / f"{user}.kubeconfig": config.kubeconfig(url, state.pki, user) for user in _CLIENTS},
        })  # fmt: skip
        for name, target in {
            "kubectl": binaries["kubectl"], "helm": binaries["helm"], "ctr": tools["ctr"],
        }.items():  # fmt: skip
            link = state.bin / name
            link.unlink(missing_ok=True)
            link.symlink_to(target)

    def _start(self, first: Member, binaries: Binaries, tools: Packages) -> list[str]:
        state, started = self.state, []

        def start(name: str, argv: Sequence[str], *reads: Path) -> None:
            if self._processes.ensure(name, argv, reads=reads):
                started.append(name)

        first.write_config(tools, self._plane.url)
        with step("starting etcd, kube-apiserver and containerd (3 s)"):
            start("etcd", config.etcd(binaries, self._plane))
            start("kube-apiserver", config.apiserver(binaries, self._plane), state.pki / "apiserver.crt")
            started += first.start_containerd(binaries, tools)
            first.until("kube-apiserver", self._server().ready, "etcd", "kube-apiserver")
        with step("starting kube-controller-manager, kube-scheduler, kubelet and kube-proxy (1 s)"):
            start("kube-controller-manager", config.controller_manager(binaries, state))
            start("kube-scheduler", config.scheduler(binaries, state))
            started += first.start_kubelet(binaries, tools)
        return started

    def _server(self) -> api.Api:
        return api.Api(self._plane.url, self.state.pki)

    def _wait(self, first: Member, binaries: Binaries) -> None:
        server = self._server()
        with step("waiting for the node, the first service account and Services (5 s)"):
            first.wait(binaries, server)
            first.until("the default service account", lambda: _default_account(server), "kube-controller-manager")

    def _join(self, other: Member, binaries: Binaries, tools: Packages) -> list[str]:
        with step(f"starting {other.node.name} in namespaces of its own (5 s)"):
            other.write_config(tools, self._plane.url)
            started = [*other.start_containerd(binaries, tools), *other.start_kubelet(binaries, tools)]
            other.wait(binaries, self._server())
        return started

    def _remove(self, other: Member, binaries: Binaries) -> None:
        """Take a node away for good, with its images."""
        with step(f"removing {other.node.name}"):
            other.kill()
            kubectl = [binaries["kubectl"], f"--kubeconfig={self.state.kubeconfig}"]
            if (done := run([*kubectl, "delete", "node", other.node.name, "--ignore-not-found"])).returncode:
                raise ClusterError(f"removing {other.node.name} failed: {done.stderr.strip()}")
            shutil.rmtree(other.node.state.root)

    def stop_node(self, name: str) -> None:
        """Take a node away as a power cut does: its pods and its kubelet are gone, and nobody tells the API server.

        Raises ClusterError for the first node, and if there is none of that name.
        """
        _need_root()
        with locked(self.state.root, "changing the cluster"), step(f"stopping {name} and all of its pods"):
            self._other(name).kill()

    def start_node(self, name: str) -> None:
        """Bring a node back that was stopped. Raises ClusterError as `stop_node` does, and if the cluster is not up."""
        _need_root()
        with locked(self.state.root, "changing the cluster"):
            other = self._other(name)
            if not self._processes.running("kube-apiserver"):
                raise ClusterError("the cluster is not up: run `up`, which brings this node, too")
            running = set(COMPONENTS)
            host.preflight(self.state, running, [other.node] if other.lost else [])
            self._join(other, build.ensure(), packages.ensure())

    def _other(self, name: str) -> Member:
        first, *others = layout.nodes(self.state)
        for node in others:
            if node.name == name:
                return Member(node)
        if name == first.name:
            raise ClusterError(f"{name} carries the control plane: `down` stops it, `kubectl drain {name}` empties it")
        there = ", ".join(node.name for node in others) or f"none; `up --nodes {layout.MAX_NODES}` makes one"
        raise ClusterError(f"there is no node {name} that could be stopped or started (there is: {there})")

    def down(self) -> None:
        """Stop everything and put the machine back as it was. Images and the API server's data stay."""
        if not self.state.root.exists():
            say(f"nothing to take down: {self.state.root} does not exist")
            return
        _need_root()
        with locked(self.state.root, "changing the cluster"):
            self._down()

    def _down(self) -> None:
        tools = packages.ensure()
        members = [Member(node) for node in layout.nodes(self.state)]
        with step("stopping the pods"):
            for each in members:
                each.stop_pods(tools)
        with step("stopping Kubernetes and containerd"):
            # The API server first, while etcd can still answer it.
            self._processes.stop(["kube-apiserver", "kube-controller-manager", "kube-scheduler"])
            self._processes.stop(["etcd"])
            for each in members:
                each.stop()
        with step("putting the machine back as it was"):
            host.restore(self.state, tools)
            for each in members:
                shutil.rmtree(each.node.state.run, ignore_errors=True)

    def clean(self) -> None:
        """`down`, then delete the state directory: data, images, keys, logs. The cache stays."""
        if not self.state.root.exists():
            say(f"nothing to clean: {self.state.root} does not exist")
            return
        _need_root()
        with locked(self.state.root, "changing the cluster"):
            self._down()
            if left := host.mounts(self.state.root):
                raise ClusterError(f"not deleting {self.state.root}: {', '.join(left)} is mounted in it")
            with step(f"deleting {self.state.root}"):
                shutil.rmtree(self.state.root)

    def status(self) -> bool:
        """Print how each component is; returns whether all of them run and the API server is ready."""
        good = member.print_status(self._processes, {name: name for name in CONTROL_PLANE})
        for node in layout.nodes(self.state):
            good &= Member(node).status()
        ready = good and self._server().ready()
        print(f"{'API server':28} {'ready' if ready else 'not ready':24} {self._plane.url}")
        return ready


def _need_root() -> None:
    if os.geteuid() != 0:
        raise ClusterError("the embedded cluster needs root: run this with sudo, or set KUBECONFIG to a cluster")


def _default_account(server: api.Api) -> bool:
    try:
        server.get("/api/v1/namespaces/default/serviceaccounts/default")
    except api.NOT_YET:
        return False
    return True
