"""Pure rendering of arguments and configuration files. Nothing here touches the machine."""

from __future__ import annotations

import base64
import json
from dataclasses import dataclass
from pathlib import Path

from cluster import layout
from cluster.build import Binaries
from cluster.layout import Node, State
from cluster.packages import Packages


@dataclass(frozen=True)
class ControlPlane:
    """Where one etcd and one kube-apiserver listen and keep their data."""

    pki: Path
    etcd_data: Path
    address: str
    api_port: int
    etcd_port: int
    service_cidr: str

    @property
    def url(self) -> str:
        return f"https://{self.address}:{self.api_port}"


def etcd(binaries: Binaries, plane: ControlPlane) -> list[str]:
    pki = plane.pki
    url = f"https://{plane.address}:{plane.etcd_port}"
    return [
        binaries["etcd"], f"--data-dir={plane.etcd_data}",
        f"--listen-client-urls={url}", f"--advertise-client-urls={url}",
        # One member has no peers; it wants an address all the same, and any free one will do.
        "--listen-peer-urls=http://127.0.0.1:0",
        f"--cert-file={pki}/etcd.crt", f"--key-file={pki}/etcd.key", "--client-cert-auth=true",
        f"--trusted-ca-file={pki}/etcd-ca.crt",
        # The data need not survive a power cut, and a busy disk would otherwise stall the whole cluster.
        "--unsafe-no-fsync=true", "--log-level=warn", "--quota-backend-bytes=4294967296",
        "--auto-compaction-mode=revision", "--auto-compaction-retention=10000",
    ]  # fmt: skip


def apiserver(binaries: Binaries, plane: ControlPlane) -> list[str]:
    pki = plane.pki
    return [
        binaries["kube-apiserver"],
        f"--bind-address={plane.address}",
        f"--advertise-address={plane.address}", f"--secure-port={plane.api_port}",
        f"--tls-cert-file={pki}/apiserver.crt", f"--tls-private-key-file={pki}/apiserver.key",
        f"--client-ca-file={pki}/ca.crt",
        f"--etcd-servers=https://{plane.address}:{plane.etcd_port}", f"--etcd-cafile={pki}/etcd-ca.crt",
        f"--etcd-certfile={pki}/apiserver-etcd-client.crt", f"--etcd-keyfile={pki}/apiserver-etcd-client.key",
        "--authorization-mode=Node,RBAC", "--enable-admission-plugins=NodeRestriction",
        "--allow-privileged=true",
        "--service-account-issuer=https://kubernetes.default.svc.cluster.local",
        f"--service-account-key-file={pki}/sa.pub", f"--service-account-signing-key-file={pki}/sa.key",
        f"--service-cluster-ip-range={plane.service_cidr}",
        f"--kubelet-certificate-authority={pki}/ca.crt", "--kubelet-preferred-address-types=InternalIP",
        f"--kubelet-client-certificate={pki}/apiserver-kubelet-client.crt",
        f"--kubelet-client-key={pki}/apiserver-kubelet-client.key",
        # The aggregation layer, for a metrics server: https://kubernetes.io/docs/tasks/extend-kubernetes/
        f"--requestheader-client-ca-file={pki}/front-proxy-ca.crt",
        "--requestheader-allowed-names=front-proxy-client", "--requestheader-username-headers=X-Remote-User",
        "--requestheader-group-headers=X-Remote-Group",
        "--requestheader-extra-headers-prefix=X-Remote-Extra-",
        f"--proxy-client-cert-file={pki}/front-proxy-client.crt",
        f"--proxy-client-key-file={pki}/front-proxy-client.key",
        "--profiling=false",
    ]  # fmt: skip


def controller_manager(binaries: Binaries, state: State) -> list[str]:
    kubeconfig = state.config / "controller-manager.kubeconfig"
    return [
        binaries["kube-controller-manager"], *_client(kubeconfig), f"--bind-address={layout.NODE_IP}",
        f"--root-ca-file={state.pki}/ca.crt", f"--service-account-private-key-file={state.pki}/sa.key",
        "--use-service-account-credentials=true",
        f"--cluster-signing-cert-file={state.pki}/ca.crt", f"--cluster-signing-key-file={state.pki}/ca.key",
        "--profiling=false",
    ]  # fmt: skip


def scheduler(binaries: Binaries, state: State) -> list[str]:
    return [
        binaries["kube-scheduler"], *_client(state.config / "scheduler.kubeconfig"),
        f"--bind-address={layout.NODE_IP}", "--profiling=false",
    ]  # fmt: skip


def _client(kubeconfig: Path) -> list[str]:
    return [
        f"--kubeconfig={kubeconfig}", f"--authentication-kubeconfig={kubeconfig}",
        f"--authorization-kubeconfig={kubeconfig}", "--leader-elect=false",
    ]  # fmt: skip


def kubelet(binaries: Binaries, node: Node) -> list[str]:
    state = node.state
    return [
        binaries["kubelet"], f"--config={state.config}/kubelet.json",
        *_identity(node), f"--root-dir={state.kubelet}",
        f"--hostname-override={node.name}", f"--node-ip={node.address}",
    ]  # fmt: skip


def _identity(node: Node) -> list[str]:
    """As whom the kubelet calls the API server. The first has a certificate; another asks for one when it joins, in the
    administrator's name: https://kubernetes.io/docs/reference/access-authn-authz/kubelet-tls-bootstrapping/"""
    state = node.state
    if node.first:
        return [f"--kubeconfig={state.config}/kubelet.kubeconfig", f"--cert-dir={state.kubelet}/pki"]
    return [
        f"--bootstrap-kubeconfig={node.cluster.kubeconfig}", f"--kubeconfig={state.pki}/kubelet.kubeconfig",
        f"--cert-dir={state.pki}",
    ]  # fmt: skip


def kube_proxy(binaries: Binaries, node: Node) -> list[str]:
    return [binaries["kube-proxy"], f"--config={node.state.config}/kube-proxy.json"]


def containerd(packages: Packages, node: Node) -> list[str]:
    return [packages["containerd"], "--config", f"{node.state.config}/containerd.toml"]


def kubelet_config(node: Node) -> str:
    """https://kubernetes.io/docs/reference/config-api/kubelet-config.v1beta1/"""
    state, pki = node.state, node.cluster.pki
    certificate: dict[str, object] = (
        {"tlsCertFile": f"{pki}/kubelet.crt", "tlsPrivateKeyFile": f"{pki}/kubelet.key"}
        if node.first
        else {"serverTLSBootstrap": True, "cgroupRoot": node.cgroup}
    )
    return _json({
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "address": node.address,
        "port": layout.KUBELET_PORT,
        "healthzBindAddress": node.address,
        "healthzPort": 10248,
        "authentication": {
            "anonymous": {"enabled": False},
            "webhook": {"enabled": True},
            "x509": {"clientCAFile": f"{pki}/ca.crt"},
        },
        "authorization": {"mode": "Webhook"},
        **certificate,
        "containerRuntimeEndpoint": f"unix://{state.containerd_socket}",
        "cgroupDriver": "cgroupfs",
        "failCgroupV1": False,
        "failSwapOn": False,
        # Lower scores need CAP_SYS_RESOURCE, which not every machine has.
        "oomScoreAdj": 0,
        # kube-proxy speaks nftables, so nobody uses the chains that the kubelet would make.
        "makeIPTablesUtilChains": False,
        # There is no cluster DNS. Nothing listens here, so look-ups in pods fail at once.
        "clusterDNS": [node.address],
        "clusterDomain": "cluster.local",
        "maxPods": 250,
        "serializeImagePulls": False,
        # No registry: an image that was collected, or evicted for, could not be pulled again, the sandbox's neither.
        # So a disk that fills up ends no pod; `up` looks at it before.
        "imageGCHighThresholdPercent": 100,
        "evictionHard": {"memory.available": "100Mi", "nodefs.available": "0%", "imagefs.available": "0%",
                         "nodefs.inodesFree": "0%", "imagefs.inodesFree": "0%"},
        "nodeStatusUpdateFrequency": "5s",
        "syncFrequency": "10s",
        "podLogsDir": f"{state.run}/pod-logs",
        "volumePluginDir": f"{state.kubelet}/volume-plugins",
        "logging": {"verbosity": 1},
    })  # fmt: skip


def kube_proxy_config(node: Node) -> str:
    """https://kubernetes.io/docs/reference/config-api/kube-proxy-config.v1alpha1/"""
    return _json({
        "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
        "kind": "KubeProxyConfiguration",
        "clientConnection": {"kubeconfig": f"{node.state.config}/kube-proxy.kubeconfig"},
        "mode": "nftables",
        "hostnameOverride": node.name,
        "bindAddress": node.address,
        "clusterCIDR": node.pod_cidr,
        "healthzBindAddress": f"{node.address}:10256",
        "metricsBindAddress": f"{node.address}:10249",
        "oomScoreAdj": 0,
        # Zero leaves the machine's own connection tracking limits alone.
        "conntrack": {"maxPerCore": 0, "min": 0, "tcpEstablishedTimeout": "0s", "tcpCloseWaitTimeout": "0s"},
        "nftables": {"minSyncPeriod": "100ms"},
    })  # fmt: skip


def containerd_config(packages: Packages, node: Node) -> str:
    """Version 2, for containerd 1.6: https://github.com/containerd/containerd/blob/release/1.6/docs/cri/config.md"""
    state = node.state
    return f"""\
version = 2
root = "{state.root}/containerd"
state = "{state.run}/containerd"
disabled_plugins = [
  "io.containerd.internal.v1.opt", "io.containerd.internal.v1.tracing",
  "io.containerd.tracing.processor.v1.otlp", "io.containerd.snapshotter.v1.aufs",
  "io.containerd.snapshotter.v1.btrfs", "io.containerd.snapshotter.v1.devmapper",
  "io.containerd.snapshotter.v1.zfs",
]

[grpc]
address = "{state.containerd_socket}"

[plugins."io.containerd.grpc.v1.cri"]
sandbox_image = "{layout.PAUSE_IMAGE}"
disable_apparmor = true
netns_mounts_under_state_dir = true
# Without CAP_SYS_RESOURCE a process may not lower its score, and runc would give up.
restrict_oom_score_adj = true

[plugins."io.containerd.grpc.v1.cri".containerd]
snapshotter = "overlayfs"
default_runtime_name = "runc"

[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
runtime_type = "io.containerd.runc.v2"

[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
BinaryName = "{packages["runc"]}"
Root = "{state.run}/runc"
SystemdCgroup = false

[plugins."io.containerd.grpc.v1.cri".cni]
bin_dir = "{packages.cni}"
conf_dir = "{state.config}/cni"
"""


def cni_config(node: Node) -> str:
    """One routed veth a pod and no way out of the machine: https://www.cni.dev/plugins/current/main/ptp/"""
    return _json({
        "cniVersion": "1.0.0",
        "name": "vernal",
        "plugins": [{
            "type": "ptp",
            "ipMasq": False,
            "ipam": {
                "type": "host-local",
                "dataDir": f"{node.state.run}/cni",
                "ranges": [[{"subnet": node.pod_cidr}]],
                "routes": [{"dst": "0.0.0.0/0"}],
            },
        }],
    })  # fmt: skip


def kubeconfig(url: str, pki: Path, user: str) -> str:
    """A kubeconfig that holds its certificates, so that it may be copied."""
    return _json({
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "vernal", "cluster": {
            "server": url,
            "certificate-authority-data": _base64(pki / "ca.crt"),
        }}],
        "users": [{"name": user, "user": {
            "client-certificate-data": _base64(pki / f"{user}.crt"),
            "client-key-data": _base64(pki / f"{user}.key"),
        }}],
        "contexts": [{"name": "vernal", "context": {"cluster": "vernal", "user": user}}],
        "current-context": "vernal",
    })  # fmt: skip


def _base64(path: Path) -> str:
    return base64.b64encode(path.read_bytes()).decode()


def _json(value: object) -> str:
    return json.dumps(value, indent=2) + "\n"
