"""What the plugin is tested with: two pools that have settled, and what the verbs that only look said of them.

The workers say what workers on H200s said: host, sizes and timings are those of bench/restore/results/two-h200.json.
"""

import contextlib
import io
import json
import os
import threading
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import pytest
import yaml
from cluster.apiserver import ApiServer
from controlplane.cases import Case, Server, condition
from controlplane.plugin_servers import admin_ports, kubelet, own_address
from kubectl_vernal import read
from kubectl_vernal.cluster import Cluster
from kubectl_vernal.main import main
from kubectl_vernal.views.redact import redact
from patience import GUARD_SECONDS
from vernal_contract import names
from vernal_contract.identity import HostTuple, digest
from vernal_contract.state import StartMode, WorkerState
from vernal_operator.kinds import CHECKPOINTS, LEASES, PODS, POOLS, Kind

ROOT = Path(__file__).parents[3]
RECORDED = ROOT / "plugin" / "tests" / "recorded" / "world.json"
WRITE = bool(os.environ.get("VERNAL_WRITE_DOCS"))
BENCH = json.loads((ROOT / "bench/restore/results/two-h200.json").read_text())["runs"]["8b-External"]
BYTES = sum(BENCH["artifact"].values())
NODES = Kind("", "v1", "Node", "nodes", namespaced=False)
NAMESPACE = "demo"
H200 = HostTuple(
    architecture="x86_64",
    cpu_features=("amx_tile", "avx512f"),
    kernel="6.18",
    gpu_product="NVIDIA H200",
    gpu_count=1,
    gpu_memory_gib=(140,),
    gpu_compute_capability="9.0",
    gpu_driver="580.159.04",
)
SECRET = "hf_" + "neverleavesthecluster" * 2


def qwen(name: str, **engine_args: Any) -> dict[str, Any]:
    return {
        "apiVersion": names.API_VERSION,
        "kind": POOLS.name,
        "metadata": {"name": name},
        "spec": {
            "replicas": 2 if name == "qwen" else 1,
            "image": "registry.example.com/vernal-worker:0.1.0",
            "model": {"name": "Qwen/Qwen3-8B", "revision": "b968826d9c46dd6066d109eabc6255188de91218"},
            "engineArgs": {"max_model_len": 8192} | engine_args,
            "env": [{"name": "HF_TOKEN", "value": SECRET}],  # as one should not
            "resources": {"limits": {"nvidia.com/gpu": 1}},
            "checkpoint": {"storage": {"claimName": "store"}},
        },
    }


def node(name: str, driver: str) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {
            "name": name,
            "labels": {
                "nvidia.com/gpu.product": "NVIDIA-H200",
                "nvidia.com/gpu.compute.major": "9",
                "nvidia.com/gpu.compute.minor": "0",
                "nvidia.com/cuda.driver-version.full": driver,
            },
        },
    }


def node_status(kubelet_port: int) -> dict[str, Any]:
    info = (
        "machineID",
        "systemUUID",
        "bootID",
        "osImage",
        "containerRuntimeVersion",
        "kubeletVersion",
        "kubeProxyVersion",
    )
    return {
        "addresses": [{"type": "InternalIP", "address": "127.0.0.1"}],
        "allocatable": {"nvidia.com/gpu": "8", "cpu": "64", "memory": "512Gi"},
        "conditions": [{"type": "Ready", "status": "True", "lastTransitionTime": "2026-01-01T00:00:00Z"}],
        "daemonEndpoints": {"kubeletEndpoint": {"Port": kubelet_port}},
        "nodeInfo": dict.fromkeys(info, "x")
        | {"kernelVersion": "6.18.5-amd64", "architecture": "amd64", "operatingSystem": "linux"},
    }


@dataclass(frozen=True)
class Said:
    """What a verb printed and ended with."""

    code: int
    text: str
    errors: str

    @property
    def data(self) -> Any:
        return json.loads(self.text)


class Demo:
    """Two pools of one namespace, and the plugin as its user runs it."""

    def __init__(self, server: Server, case: Case, api: ApiServer, directory: Path) -> None:
        self.server, self.case, self.client, self.directory = server, case, server.client, directory
        config = yaml.safe_load(api.kubeconfig.read_text())
        for context in config["contexts"]:
            context["context"]["namespace"] = NAMESPACE
        self.kubeconfig = directory / "kubeconfig"
        self.kubeconfig.write_text(yaml.safe_dump(config))
        self.held = threading.Event()  # pods that were deleted stay until it is set
        self.shown: dict[str, Said] = {}
        self.thawed = self.cold = self.long = ""  # names of pods: of qwen, and the one of qwen-long

    def run(self, line: str) -> Said:
        """`kubectl vernal` with these words."""
        out, errors = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(errors):
            try:
                code = main(
                    [*line.split(), "--kubeconfig", str(self.kubeconfig), f"--admin-port={self.server.node.port}"]
                )
            except SystemExit as end:
                code = int(str(end.code))
        return Said(code, out.getvalue(), errors.getvalue())

    def show(self, line: str) -> Said:
        """`run`, and keep it for the page."""
        self.shown[f"kubectl vernal {line}"] = self.run(line)
        return self.shown[f"kubectl vernal {line}"]

    def pool(self, name: str = "qwen") -> dict[str, Any]:
        return self.client.get(POOLS, NAMESPACE, name)

    def pods(self, pool: str = "qwen") -> list[dict[str, Any]]:
        return [pod for pod in self.case.items(PODS) if read.labels(pod).get(names.LABEL_POOL) == pool]

    def settled(self, name: str = "qwen") -> bool:
        found = self.pool(name)
        status, replicas = found.get("status", {}), found["spec"]["replicas"]
        return (
            status.get("observedGeneration") == found["metadata"]["generation"]
            and (status.get("readyReplicas"), status.get("updatedReplicas"), status.get("replicas")) == (replicas,) * 3
            and status["restoredReplicas"] + status["coldStartedReplicas"] == replicas
            and [condition(found, kind) for kind in ("Progressing", "CheckpointReady", "Ready")]
            == ["False", "True", "True"]
            and len(self.pods(name)) == replicas
        )

    def wait_settled(self) -> None:
        for name in ("qwen", "qwen-long"):
            self.case.wait(f"{name} to settle", partial(self.settled, name))


def _as_on_a_gpu(state: WorkerState) -> None:
    """What the node's worker says, as one on an H200 did."""
    state.host, state.host_tuple = H200, digest(H200)
    if state.artifact is not None:
        state.artifact = msgspec.structs.replace(state.artifact, host_tuple=digest(H200), bytes=BYTES)
        thawed = state.start_mode is StartMode.RESTORED
        said = BENCH["thaws"][0] if thawed else BENCH["cold"]
        state.timings = said["timings"]
        # The bench counts from exec, and a worker from its first instruction.
        state.begun = {name: at - said["begun"]["total"] for name, at in said["begun"].items()}
        if state.freeze is not None:
            state.freeze = msgspec.structs.replace(state.freeze, seconds=BENCH["cold"]["freeze"]["seconds"])


@contextlib.contextmanager
def prepared(server: Server, api: ApiServer, directory: Path) -> Iterator[Demo]:
    """Settled pools. All that only looks has been asked, and is in `shown`; the operator runs."""
    logs: dict[str, str] = {}
    with contextlib.ExitStack() as stack:
        patch = stack.enter_context(pytest.MonkeyPatch.context())
        case = stack.enter_context(Case(server, NAMESPACE))
        demo = Demo(server, case, api, directory)
        plain = server.node._state

        def state(pod: dict[str, Any], *, ready: bool) -> WorkerState:
            found = plain(pod, ready=ready)
            if pod["metadata"]["namespace"] == NAMESPACE:
                _as_on_a_gpu(found)
            return found

        demo.held.set()
        patch.setattr(server.node, "_state", state)
        patch.setitem(server.node.ends, NAMESPACE, demo.held)
        patch.setattr("kubectl_vernal.cluster._SECONDS", GUARD_SECONDS)  # no verb gives up because the machine is slow
        a_kubelet = kubelet(api.pki, logs)
        stack.callback(a_kubelet.shutdown)
        for name, driver, port in (("node", "580.159.04", a_kubelet.server_address[1]), ("other", "575.57.08", 1)):
            made = demo.client.create(NODES, "", node(name, driver))
            stack.callback(demo.client.delete, NODES, "", name, made["metadata"]["uid"])
            # Admission taints what is new, and no controller is here to see that it is ready.
            demo.client.patch(NODES, "", name, {"spec": {"taints": None}})
            demo.client._json("patch", NODES, NODES.path(None, name, "status"), None, {"status": node_status(port)})
        _forget_other_operators(demo)
        case.start()
        demo.client.create(POOLS, NAMESPACE, qwen("qwen"))
        case.wait("qwen to settle", demo.settled)
        demo.client.create(POOLS, NAMESPACE, qwen("qwen-long", max_model_len=16384))
        demo.wait_settled()
        case.wait("checkpoints to have counted", lambda: sorted(map(_counted, case.items(CHECKPOINTS))) == COUNTED)
        demo.show("status")
        demo.show("doctor")
        _look(demo, logs)
        case.start()
        demo.wait_settled()
        yield demo
        demo.held.set()


COUNTED = [(0, ["qwen-long"]), (1, ["qwen"])]
"""How often each checkpoint was thawed, and by whose pods: the operator writes it when it has asked them."""


def _counted(checkpoint: dict[str, Any]) -> tuple[int, list[str]]:
    status = checkpoint.get("status", {})
    return status.get("restores", 0), status.get("usedBy", [])


def _look(demo: Demo, logs: dict[str, str]) -> None:
    """All that asks workers: the API server reaches them on one address, where no operator could tell them apart."""
    assert demo.case.operator is not None
    demo.case.operator.kill()
    demo.case.wait("the operator to end", lambda: demo.case.operator is not None and not demo.case.operator.alive)
    pods = demo.case.items(PODS)
    were = {pod["metadata"]["name"]: pod["status"]["podIP"] for pod in pods}
    states = {
        name: msgspec.json.encode(msgspec.json.decode(demo.server.node._answers[address]))
        for name, address in were.items()
    }
    address = own_address()
    ports = admin_ports(address, demo.server.node.port, states.get)
    try:
        for name in were:
            _move(demo, name, address)
        thawed, cold = sorted(
            (pod["metadata"]["name"] for pod in demo.pods()),
            key=lambda name: msgspec.json.decode(states[name])["startMode"] == "Cold",
        )
        (long,) = (pod["metadata"]["name"] for pod in demo.pods("qwen-long"))
        logs[thawed] = f"event=phase phase=Thawing\nengine: HF_TOKEN={SECRET}\nevent=phase phase=Ready mode=Restored\n"
        for line in (
            "status qwen",
            "status qwen -o json",
            "checkpoints",
            "checkpoints -o wide",
            f"explain {thawed}",
            f"explain {long}",
            f"timeline {thawed}",
            f"timeline {cold}",
            "thaw --dry-run qwen",
            "thaw qwen",
            "rollback qwen --list",
            "logs qwen",
            f"logs {thawed} --follow",
            f"report -f {demo.directory}/bundle.tar.gz",
        ):
            demo.show(line)
        demo.thawed, demo.cold, demo.long = thawed, cold, long
        if WRITE:
            record(demo)
    finally:
        for name, before in were.items():
            _move(demo, name, before)
        ports.shutdown()


def record(demo: Demo) -> None:
    cluster = Cluster.connect(str(demo.kubeconfig), None)
    kinds = (
        read.POOLS,
        read.CHECKPOINTS,
        "pods",
        "controllerrevisions",
        "poddisruptionbudgets",
        "persistentvolumeclaims",
    )
    world = asdict(read.world(cluster, NAMESPACE, kinds, states=True, admin_port=demo.server.node.port))
    for kind in ("nodes", "leases", "customresourcedefinitions"):
        world["objects"][kind] = read.world(cluster, None, (kind,)).of(kind)
    for crd in world["objects"]["customresourcedefinitions"]:
        crd["spec"]["versions"] = [{"name": one["name"], "served": one["served"]} for one in crd["spec"]["versions"]]
    managers = [
        [{"manager": one["manager"]} for one in lease["metadata"]["managedFields"]]
        for lease in world["objects"]["leases"]
    ]
    world = redact(world)
    for lease, those in zip(world["objects"]["leases"], managers, strict=True):  # by which an operator's is known
        lease["metadata"]["managedFields"] = those
    RECORDED.write_text(json.dumps(world, indent=1) + "\n")


def _forget_other_operators(demo: Demo) -> None:
    """Leases of operators that other tests ended on this server: `doctor` would call each of them silent."""
    for lease in json.loads(demo.client.list_page(LEASES, None, {}))["items"]:
        meta = lease["metadata"]
        if any(entry.get("manager") == names.FIELD_MANAGER for entry in meta.get("managedFields", ())):
            demo.client.delete(LEASES, meta["namespace"], meta["name"], meta["uid"])


def _move(demo: Demo, pod: str, address: str) -> None:
    body = {"status": {"podIP": address, "podIPs": [{"ip": address}]}}
    demo.client._json("patch", PODS, PODS.path(NAMESPACE, pod, "status"), None, body)
