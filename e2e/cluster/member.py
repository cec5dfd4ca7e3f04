"""One node of the cluster: its containerd, kubelet and kube-proxy, and, but for the first, their namespaces."""

from __future__ import annotations

import os
import shutil
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from cluster import api, config, host, images, proc
from cluster.build import Binaries
from cluster.command import run
from cluster.errors import ClusterError
from cluster.layout import Node
from cluster.packages import Packages

COMPONENTS = ("containerd", "kubelet", "kube-proxy")
#: Holds the network, mount and UTS namespaces of a node that is not the machine itself.
HOLDER = "namespaces"
_SLEEP = ("sleep", "infinity")


class Member:
    """A node. Nothing here takes the cluster's lock: callers have it."""

    def __init__(self, node: Node) -> None:
        self.node = node
        state = node.state
        self.processes = proc.Processes(state.run, state.logs, str(state.root))

    @property
    def components(self) -> Sequence[str]:
        """What of it runs for long."""
        return COMPONENTS if self.node.first else (HOLDER, *COMPONENTS)

    @property
    def lost(self) -> bool:
        """Whether it is a node that is not there, whatever of its processes is left."""
        return not self.node.first and not self.processes.running(HOLDER)

    def write_config(self, tools: Packages, url: str) -> None:
        """Its files, for the API server at `url`."""
        node = self.node
        state = node.state
        (state.config / "cni").mkdir(parents=True, exist_ok=True)
        write({
            state.config / "kubelet.json": config.kubelet_config(node),
            state.config / "kube-proxy.json": config.kube_proxy_config(node),
            state.config / "containerd.toml": config.containerd_config(tools, node),
            state.config / "cni" / "10-vernal.conflist": config.cni_config(node),
            state.config / "kube-proxy.kubeconfig": config.kubeconfig(url, node.cluster.pki, "kube-proxy"),
        })  # fmt: skip
        if node.first:
            write({state.config / "kubelet.kubeconfig": config.kubeconfig(url, state.pki, "kubelet")})

    # -- up ----------------------------------------------------------------------------------------------------------

    def start_containerd(self, binaries: Binaries, tools: Packages) -> list[str]:
        """Make it run, and the sandboxes' image be there; returns what was started."""
        state = self.node.state
        started = [] if self.node.first else self._ensure_namespaces()
        config_file = state.config / "containerd.toml"
        started += self._ensure("containerd", config.containerd(tools, self.node), tools, config_file)
        self.until("containerd", lambda: self._containerd_answers(tools), "containerd")
        images.load_pause(binaries, tools, self.node)
        return started

    def start_kubelet(self, binaries: Binaries, tools: Packages) -> list[str]:
        """Make kubelet and kube-proxy run; returns what was started. The API server must be ready."""
        folder = self.node.state.config
        return [
            *self._ensure("kubelet", config.kubelet(binaries, self.node), tools, folder / "kubelet.json"),
            *self._ensure("kube-proxy", config.kube_proxy(binaries, self.node), tools, folder / "kube-proxy.json"),
        ]

    def wait(self, binaries: Binaries, server: api.Api) -> None:
        """Wait until pods can be made, and reached, on it."""
        if not self.node.first:
            self.until(f"a certificate for {self.node.name}", lambda: self._certified(binaries, server), "kubelet")
        self.until(f"{self.node.name} to be Ready", lambda: self._ready(server), "kubelet")
        self.until("kube-proxy", self._proxy_ready, "kube-proxy")

    def until(self, what: str, condition: Callable[[], bool], *names: str) -> None:
        """Wait, as long as its components `names` run. Raises ClusterError that says what to read."""
        until(self.processes, what, condition, *names)

    def _ensure(self, name: str, argv: Sequence[str], tools: Packages, *reads: Path) -> list[str]:
        # Kubernetes runs nft, containerd runs its shim, and both are only in our own folders.
        env = {"PATH": f"{tools.bin}:{os.environ.get('PATH', '/usr/sbin:/usr/bin:/sbin:/bin')}"}
        return [self._called(name)] if self.processes.ensure(name, [*self._inside(), *argv], env, reads) else []

    def _called(self, name: str) -> str:
        return name if self.node.first else f"{name} of {self.node.name}"

    def _inside(self) -> list[str]:
        if self.node.first:
            return []
        return ["nsenter", f"--target={self._holder().pid}", "--net", "--mount", "--uts", "--"]

    def _holder(self) -> proc.Record:
        found = self.processes.running(HOLDER)
        if found is None:
            raise ClusterError(f"{self.node.name} ended: {self.processes.why(HOLDER)}")
        return found

    def _ensure_namespaces(self) -> list[str]:
        started = self.lost
        if started:
            self.kill()  # what is left of it is in namespaces that nobody can enter any more
            command = ["unshare", "--net", "--mount", "--uts", "--propagation=slave", *_SLEEP]
            self.processes.ensure(HOLDER, command)
            try:
                self.until("namespaces", self._unshared, HOLDER)
                host.furnish(self.node, self._holder().pid)
            except BaseException:
                self.processes.kill(HOLDER)  # half made, and the next `up` would not know
                raise
        host.make_cgroup(self.node)
        host.plug(self.node, self._holder().pid)
        return [self._called(HOLDER)] if started else []

    def _unshared(self) -> bool:
        """Whether the program that makes the namespaces has become the one that holds them."""
        found = proc.inspect(self._holder().pid)
        return found is not None and tuple(found.argv) == _SLEEP

    def _containerd_answers(self, tools: Packages) -> bool:
        socket = self.node.state.containerd_socket
        return socket.exists() and not run([tools["ctr"], "--address", str(socket), "version"]).returncode

    def _certified(self, binaries: Binaries, server: api.Api) -> bool:
        """Whether the kubelet has the certificate of its server, which the API server checks; grants what it asks for.

        Kubernetes grants a node's certificate as a client by itself, and that of its server to nobody.
        """
        if (self.node.state.pki / "kubelet-server-current.pem").exists():
            return True
        try:
            asked = server.get("/apis/certificates.k8s.io/v1/certificatesigningrequests")["items"]
        except api.NOT_YET:
            return False
        for name in serving_requests(asked, self.node.name):
            kubectl = [binaries["kubectl"], f"--kubeconfig={self.node.cluster.kubeconfig}"]
            if (done := run([*kubectl, "certificate", "approve", name])).returncode:
                raise ClusterError(f"approving the certificate of {self.node.name} failed: {done.stderr.strip()}")
        return False

    def _ready(self, server: api.Api) -> bool:
        """Whether the kubelet that runs now has reported Ready; a report of an earlier one does not count."""
        kubelet = self.processes.running("kubelet")
        try:
            node = server.get(f"/api/v1/nodes/{self.node.name}")
        except api.NOT_YET:
            return False
        return kubelet is not None and any(
            condition["type"] == "Ready" and condition["status"] == "True"
            and datetime.fromisoformat(condition["lastHeartbeatTime"]).timestamp() >= int(kubelet.started_at)
            for condition in node["status"].get("conditions", [])
        )  # fmt: skip

    def _proxy_ready(self) -> bool:
        try:
            with urllib.request.urlopen(f"http://{self.node.address}:10256/healthz", timeout=60) as answer:
                return bool(answer.status == 200)
        except OSError:
            return False

    # -- down --------------------------------------------------------------------------------------------------------

    def stop_pods(self, tools: Packages) -> None:
        """Stop its kubelet and kube-proxy, end its pods, and delete their containers; containerd runs on."""
        self.processes.stop(["kubelet", "kube-proxy"])
        proc.end(self._pods(), 0)
        if self.processes.running("containerd"):
            images.remove_containers(tools, self.node)

    def stop(self) -> None:
        """Stop containerd, and what else was started for it. Pods must have been stopped."""
        self.processes.stop(["containerd"])
        proc.end(list(proc.owned(str(self.node.state.root))), 2)
        proc.end(self._pods(), 0)

    def kill(self) -> None:
        """End all of a node besides the first at once, pods included, as a power cut does: nothing can say good-bye.

        What it has on its disk stays: images, its local directory, its certificate.
        """
        assert not self.node.first
        for _ in range(2):  # a shim that just started one more process is found dead, and its child alive
            proc.end([*proc.owned(str(self.node.state.root)), *self._pods()], 0)
        host.unplug(self.node)
        host.remove_cgroups([self.node.name])
        shutil.rmtree(self.node.state.run, ignore_errors=True)

    def _pods(self) -> list[proc.Record]:
        return host.pod_processes([host.CGROUP if self.node.first else self.node.name])

    def status(self) -> bool:
        """Print how each component is; returns whether all of them run."""
        return print_status(self.processes, {name: self._called(name) for name in self.components})


def serving_requests(asked: Sequence[dict[str, Any]], node: str) -> list[str]:
    """Of a cluster's CertificateSigningRequests the names of those for the server of a node's kubelet that nobody has
    answered yet."""
    return [
        request["metadata"]["name"]
        for request in asked
        if request["spec"]["signerName"] == "kubernetes.io/kubelet-serving"
        and request["spec"].get("username") == f"system:node:{node}"
        and not request.get("status", {}).get("conditions")
    ]


def print_status(processes: proc.Processes, called: Mapping[str, str]) -> bool:
    """Print how processes are, as what they are called; returns whether all of them run."""
    records = {name: processes.running(name) for name in called}
    for name, record in records.items():
        how = f"running, pid {record.pid}" if record else "stopped"
        print(f"{called[name]:28} {how:24} {processes.log(name)}")
    return all(records.values())


def until(processes: proc.Processes, what: str, condition: Callable[[], bool], *names: str) -> None:
    """Wait, as long as `names` run. Raises ClusterError that says what to read."""

    def check() -> None:
        for name in names:
            processes.check(name)

    try:
        api.wait(what, condition, check)
    except ClusterError as error:
        logs = ", ".join(str(processes.log(name)) for name in names)
        raise ClusterError(f"{error}\nRead {logs}; `down` and `up` start it afresh.") from error


def write(files: dict[Path, str]) -> None:
    """Write files that only the owner may read, where they are other than they should be."""
    for path, text in files.items():
        path.touch(mode=0o600)
        if path.read_text() != text:  # kube-proxy ends when its file is written, whatever is written
            path.write_text(text)
