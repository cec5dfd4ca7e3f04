"""The one-node cluster: brings its processes up, tells how they are, takes them down."""

from __future__ import annotations

import os
import shutil
import time
import urllib.request
from collections.abc import Callable, Sequence
from datetime import datetime
from pathlib import Path

from common.lock import locked
from common.progress import say, step

from cluster import api, build, config, host, images, layout, packages, pki, proc
from cluster.build import Binaries
from cluster.command import run
from cluster.errors import ClusterError
from cluster.layout import State
from cluster.packages import Packages

CONTROL_PLANE = ("etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler")
NODE = ("containerd", "kubelet", "kube-proxy")
COMPONENTS = (*CONTROL_PLANE, *NODE)
#: What each component that calls the API server is, as a file name in `pki` and `config`.
_CLIENTS = {"admin", "controller-manager", "scheduler", "kubelet", "kube-proxy"}


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

    def up(self) -> None:
        """Bring up whatever does not run yet, and wait until pods can be made.

        Raises ClusterError if that cannot be done, naming the step and the log to read.
        """
        _need_root()
        with locked(self.state.root, "changing the cluster"):
            began = time.monotonic()
            host.preflight(self.state, {name for name in COMPONENTS if self._processes.running(name)})
            tools = packages.ensure()
            binaries = build.ensure()
            host.prepare(self.state)
            pki.ensure(binaries, self.state.pki, layout.NODE_NAME, [layout.NODE_IP, layout.KUBERNETES_SERVICE_IP])
            self._write_config(binaries, tools)
            started = self._start(binaries, tools)
            self._wait(binaries)
            what = f"started {', '.join(started)}" if started else "was up already"
            took = time.monotonic() - began
            say(f"Kubernetes {binaries.version} at {self._plane.url}: {what} ({took:.1f} s)")

    def _write_config(self, binaries: Binaries, tools: Packages) -> None:
        state = self.state
        (state.config / "cni").mkdir(parents=True, exist_ok=True)
        state.bin.mkdir(exist_ok=True)
        files = {
            state.config / "kubelet.json": config.kubelet_config(state),
            state.config / "kube-proxy.json": config.kube_proxy_config(state),
            state.config / "containerd.toml": config.containerd_config(tools, state),
            state.config / "cni" / "10-vernal.conflist": config.cni_config(state),
            state.kubeconfig: config.kubeconfig(self._plane.url, state.pki, "admin"),
            **{
                state.config / f"{user}.kubeconfig": config.kubeconfig(self._plane.url, state.pki, user)
                for user in _CLIENTS - {"admin"}
            },
        }
        for path, text in files.items():
            path.touch(mode=0o600)
            if path.read_text() != text:  # kube-proxy ends when its file is written, whatever is written
                path.write_text(text)
        for name, target in {
            "kubectl": binaries["kubectl"], "helm": binaries["helm"], "ctr": tools["ctr"],
        }.items():  # fmt: skip
            link = state.bin / name
            link.unlink(missing_ok=True)
            link.symlink_to(target)

    def _start(self, binaries: Binaries, tools: Packages) -> list[str]:
        state, ensure, started = self.state, self._processes.ensure, []
        # Kubernetes runs nft, containerd runs its shim, and both are only in our own folders.
        env = {"PATH": f"{tools.bin}:{os.environ.get('PATH', '/usr/sbin:/usr/bin:/sbin:/bin')}"}

        def start(name: str, argv: Sequence[str], *reads: Path) -> None:
            if ensure(name, argv, env, reads):
                started.append(name)

        with step("starting etcd, kube-apiserver and containerd"):
            start("etcd", config.etcd(binaries, self._plane))
            start("kube-apiserver", config.apiserver(binaries, self._plane), state.pki / "apiserver.crt")
            start("containerd", config.containerd(tools, state), state.config / "containerd.toml")
            self._until("containerd", lambda: self._containerd_answers(tools), "containerd")
            images.load_pause(binaries, tools, state)
            self._until("kube-apiserver", api.Api(self._plane.url, state.pki).ready, "etcd", "kube-apiserver")
        with step("starting kube-controller-manager, kube-scheduler, kubelet and kube-proxy"):
            start("kube-controller-manager", config.controller_manager(binaries, state))
            start("kube-scheduler", config.scheduler(binaries, state))
            start("kubelet", config.kubelet(binaries, state), state.config / "kubelet.json")
            start("kube-proxy", config.kube_proxy(binaries, state), state.config / "kube-proxy.json")
        return started

    def _containerd_answers(self, tools: Packages) -> bool:
        command = [tools["ctr"], "--address", str(self.state.containerd_socket), "version"]
        return self.state.containerd_socket.exists() and not run(command).returncode

    def _wait(self, binaries: Binaries) -> None:
        server = api.Api(self._plane.url, self.state.pki)
        with step("waiting for the node, the first service account and Services"):
            self._until("the node to be Ready", lambda: self._node_ready(server), "kubelet")
            self._until("the default service account", lambda: _default_account(server), "kube-controller-manager")
            self._until("kube-proxy", _proxy_ready, "kube-proxy")

    def _node_ready(self, server: api.Api) -> bool:
        """Whether the kubelet that runs now has reported Ready; a report of an earlier one does not count."""
        kubelet = self._processes.running("kubelet")
        try:
            node = server.get(f"/api/v1/nodes/{layout.NODE_NAME}")
        except api.NOT_YET:
            return False
        return kubelet is not None and any(
            condition["type"] == "Ready" and condition["status"] == "True"
            and datetime.fromisoformat(condition["lastHeartbeatTime"]).timestamp() >= int(kubelet.started_at)
            for condition in node["status"].get("conditions", [])
        )  # fmt: skip

    def _until(self, what: str, condition: Callable[[], bool], *names: str) -> None:
        def check() -> None:
            for name in names:
                self._processes.check(name)

        try:
            api.wait(what, condition, check)
        except ClusterError as error:
            logs = ", ".join(str(self._processes.log(name)) for name in names)
            raise ClusterError(f"{error}\nRead {logs}; `down` and `up` start it afresh.") from error

    def down(self) -> None:
        """Stop everything and put the machine back as it was. Images and the API server's data stay."""
        if not self.state.root.exists():
            say(f"nothing to take down: {self.state.root} does not exist")
            return
        _need_root()
        with locked(self.state.root, "changing the cluster"):
            self._down()

    def _down(self) -> None:
        owner = str(self.state.root)
        tools = packages.ensure()
        with step("stopping the node's pods"):
            self._processes.stop(["kubelet", "kube-proxy"])
            proc.end(host.pod_processes(), 0)
            if self._processes.running("containerd"):
                images.remove_containers(tools, self.state)
        with step("stopping Kubernetes and containerd"):
            # The API server first, while etcd can still answer it.
            self._processes.stop(["kube-apiserver", "kube-controller-manager", "kube-scheduler"])
            self._processes.stop(["etcd", "containerd"])
            proc.end(list(proc.owned(owner)), 2)
            proc.end(host.pod_processes(), 0)
        with step("putting the machine back as it was"):
            host.restore(self.state, tools)
            shutil.rmtree(self.state.run, ignore_errors=True)

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
        good = True
        for name in COMPONENTS:
            record = self._processes.running(name)
            good &= record is not None
            how = f"running, pid {record.pid}" if record else "stopped"
            print(f"{name:24} {how:24} {self._processes.log(name)}")
        ready = good and api.Api(self._plane.url, self.state.pki).ready()
        print(f"{'API server':24} {'ready' if ready else 'not ready':24} {self._plane.url}")
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


def _proxy_ready() -> bool:
    try:
        with urllib.request.urlopen(f"http://{layout.NODE_IP}:10256/healthz", timeout=60) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False
