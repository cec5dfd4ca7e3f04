"""Every verb of the kubectl plugin against a real API server, with the operator and workers that answer.

What the verbs print is compared with docs/plugin.md, ages and times aside; VERNAL_WRITE_DOCS=1 writes it there instead,
and what was read to plugin/tests/recorded, which the plugin's pure tests compute over.
The workers say what workers on H200s said: host, sizes and timings are those of bench/restore/results/two-gpus-8b.json.
"""

import argparse
import contextlib
import http.server
import io
import json
import os
import re
import socket
import ssl
import subprocess
import sys
import tarfile
import threading
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import pytest
import yaml
from cluster.apiserver import ApiServer
from controlplane.cases import CORE, Case, Server, condition
from kubectl_vernal import read
from kubectl_vernal.cluster import Cluster
from kubectl_vernal.main import main, parser
from kubectl_vernal.views.redact import redact
from patience import GUARD_SECONDS
from vernal_contract import names
from vernal_contract.identity import HostTuple, digest
from vernal_contract.state import StartMode, WorkerState
from vernal_operator.client import ApiError
from vernal_operator.kinds import BUDGETS, CHECKPOINTS, LEASES, PODS, POOLS, Kind

pytestmark = pytest.mark.apiserver

ROOT = Path(__file__).parents[3]
PAGE = ROOT / "docs" / "plugin.md"
RECORDED = ROOT / "plugin" / "tests" / "recorded" / "world.json"
WRITE = bool(os.environ.get("VERNAL_WRITE_DOCS"))
BENCH = json.loads((ROOT / "bench/restore/results/two-gpus-8b.json").read_text())["runs"]["8b-External"]
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
        state.timings = (BENCH["thaws"][0] if thawed else BENCH["cold"])["timings"]
        if state.freeze is not None:
            state.freeze = msgspec.structs.replace(state.freeze, seconds=BENCH["cold"]["freeze"]["seconds"])


class _Quiet(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        pass

    def reply(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


def admin_ports(address: str, port: int, answers: Callable[[str], bytes | None]) -> http.server.ThreadingHTTPServer:
    """The admin ports of all pods on one address. The API server, which proxies to no loopback address, says in a
    header which pod it was asked for.
    """

    class Handler(_Quiet):
        def do_GET(self) -> None:
            pod = re.search(r"/pods/([^/:]+):", self.headers.get("X-Forwarded-Uri", ""))
            body = answers(pod[1]) if pod and self.path == "/state" else None
            self.reply(200, body) if body else self.reply(404, b"")

    return _serve(http.server.ThreadingHTTPServer((address, port), Handler))


def kubelet(pki: Path, logs: dict[str, str]) -> http.server.ThreadingHTTPServer:
    """The part of a kubelet that `kubectl logs` reaches."""

    class Handler(_Quiet):
        def do_GET(self) -> None:
            _, verb, _, pod, *_ = self.path.split("/")
            assert verb == "containerLogs", self.path
            self.reply(200, logs.get(pod, "event=phase phase=Ready\n").encode())

    found = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(pki / "kubelet.crt", pki / "kubelet.key")
    found.socket = tls.wrap_socket(found.socket, server_side=True)
    return _serve(found)


def _serve(server: http.server.ThreadingHTTPServer) -> http.server.ThreadingHTTPServer:
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server


def own_address() -> str:
    """An address of this machine that is no loopback address; nothing is sent."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))
        except OSError:
            pytest.skip("this machine has no address but loopback, to which an API server proxies nothing")
        return str(probe.getsockname()[0])


@pytest.fixture(scope="module")
def demo(server: Server, api: ApiServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Demo]:
    """Settled pools. All that only looks has been asked, and is in `shown`; the operator runs."""
    directory = tmp_path_factory.mktemp("plugin")
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


# --- what only looks ----------------------------------------------------------------------------------------


def test_status_of_all_pools_is_a_line_each(demo: Demo) -> None:
    said = demo.shown["kubectl vernal status"]
    assert said.code == 0, said
    head, *rows = said.text.splitlines()
    assert head.split()[:2] == ["NAME", "READY"]
    assert [row.split()[:2] for row in rows] == [["qwen", "2/2"], ["qwen-long", "1/1"]]


def test_status_of_a_pool_tells_how_each_pod_started(demo: Demo) -> None:
    (found,) = demo.shown["kubectl vernal status qwen -o json"].data
    assert sorted(pod["startMode"] for pod in found["pods"]) == ["Cold", "Restored"]
    assert found["checkpoint"]["state"] == "Ready" and found["checkpoint"]["sizeBytes"] == BYTES
    assert found["revision"]["wanted"] == found["revision"]["proven"]
    text = demo.shown["kubectl vernal status qwen"].text
    assert "\x1b" not in text, "no colour without a terminal"
    assert {pod["name"] for pod in found["pods"]} <= set(text.split())


def test_explain_names_the_field_that_differs(demo: Demo) -> None:
    said = demo.shown[f"kubectl vernal explain {demo.long}"]
    assert said.code == 1, "it started cold"
    assert "engineArgs.max_model_len: artifact has 8192, this host has 16384" in said.text
    assert demo.shown[f"kubectl vernal explain {demo.thawed}"].code == 0


def test_timeline_shows_each_phase_that_the_worker_timed(demo: Demo) -> None:
    said = demo.shown[f"kubectl vernal timeline {demo.thawed}"]
    for phase in BENCH["thaws"][0]["timings"]:
        assert phase == "total" or re.search(rf"^  {phase} .*#", said.text, re.MULTILINE), phase


def test_thaw_says_on_which_nodes(demo: Demo) -> None:
    said = demo.shown["kubectl vernal thaw --dry-run qwen"]
    assert said.code == 0, said
    rows = {line.split()[0]: line for line in said.text.splitlines() if line.startswith("  ") and len(line.split()) > 2}
    assert " thaws" in rows["node"]
    assert "starts cold" in rows["other"] and "'575.57.08'" in rows["other"]
    assert demo.shown["kubectl vernal thaw qwen"].code == 2, "only --dry-run"


def test_checkpoints_are_listed_with_their_users(demo: Demo) -> None:
    text = demo.shown["kubectl vernal checkpoints"].text
    assert [line.split()[-2] for line in text.splitlines()[1:]] in (["qwen", "qwen-long"], ["qwen-long", "qwen"])
    assert "driver 580.159.04" in demo.shown["kubectl vernal checkpoints -o wide"].text


def test_logs_of_all_pods_with_their_names(demo: Demo) -> None:
    said = demo.shown["kubectl vernal logs qwen"]
    assert said.code == 0, said
    assert {line.partition(":")[0] for line in said.text.splitlines()} == {demo.thawed, demo.cold}
    followed = demo.shown[f"kubectl vernal logs {demo.thawed} --follow"]
    assert followed.text.splitlines()[0] == "event=phase phase=Thawing"


def test_a_report_holds_everything_but_secrets(demo: Demo) -> None:
    with tarfile.open(demo.directory / "bundle.tar.gz") as archive:
        files = {entry.name.removeprefix("vernal-report/"): archive.extractfile(entry) for entry in archive}
        texts = {name: file.read().decode() for name, file in files.items() if file is not None}
    assert {
        f"states/{demo.thawed}.json",
        f"logs/{demo.thawed}.log",
        "vllmworkerpools.json",
        "nodes.json",
    } <= texts.keys()
    assert json.loads(texts["not-read.json"]) == {}
    assert not [name for name, text in texts.items() if SECRET in text]
    assert "HF_TOKEN" in texts["vllmworkerpools.json"], "the name stays"
    assert "phase=Thawing" in texts[f"logs/{demo.thawed}.log"]


def test_doctor_finds_the_operator_and_what_storage_lacks(demo: Demo) -> None:
    said = demo.shown["kubectl vernal doctor"]
    rows = [
        line for line in said.text.splitlines() if line.startswith(("Operator", "CRD", "Claim", "Your", "Kubernetes"))
    ]
    assert any(
        row.startswith(f"Operator, Lease vernal-system/{NAMESPACE}") and f"{NAMESPACE} leads" in row for row in rows
    )
    assert sum(row.startswith("CRD") and " ok " in row for row in rows) == 2
    assert any(row.startswith("Your rights") for row in rows), "the administrator lacks none"
    assert any("Claim demo/store" in row and "warn" in row for row in rows), "nobody binds it here"


# --- what changes something ---------------------------------------------------------------------------------


def test_pause_holds_a_roll_and_lets_it_go_on(demo: Demo) -> None:
    demo.wait_settled()
    assert demo.run("pause qwen").code == 0
    assert demo.pool()["spec"]["rollout"]["paused"] is True
    assert "already" in demo.run("pause qwen").text
    before = {pod["metadata"]["uid"] for pod in demo.pods()}
    demo.client.patch(POOLS, NAMESPACE, "qwen", {"spec": {"engineArgs": {"max_model_len": 8000}}})
    demo.case.wait("it to be held", lambda: _reason(demo.pool(), "Progressing") == "RolloutPaused")
    assert {pod["metadata"]["uid"] for pod in demo.pods()} == before
    assert "paused" in demo.run("status qwen").text
    demo.client.patch(POOLS, NAMESPACE, "qwen", {"spec": {"engineArgs": {"max_model_len": 8192}}})
    assert demo.run("pause qwen --resume").code == 0
    demo.wait_settled()
    assert not demo.pool()["spec"]["rollout"].get("paused")


def test_freeze_asks_with_a_value_that_was_not_there(demo: Demo) -> None:
    def asked() -> str | None:
        return (demo.pool()["metadata"].get("annotations") or {}).get(names.ANNOTATION_RENEW)

    before = asked()
    assert demo.run("freeze qwen --dry-run").code == 0 and asked() == before
    assert demo.run("freeze qwen").code == 0
    first = asked()
    assert first is not None and first != before
    assert demo.run("freeze qwen").code == 0 and asked() not in (first, None)

    def renewed() -> bool:
        told = demo.pool()["status"].get("renewal", {})
        return bool(told.get("request") == asked() and told["outcome"] == "Renewed")

    demo.case.wait("the new checkpoint, for which a pod comes and one goes", renewed)
    demo.wait_settled()


def test_rollback_brings_back_what_pods_are_made_of_and_nothing_else(demo: Demo) -> None:
    demo.wait_settled()
    good = demo.pool()
    change = {"image": "registry.example.com/vernal-worker:0.2.0", "engineArgs": {"max_model_len": 4096}}
    demo.client.patch(POOLS, NAMESPACE, "qwen", {"spec": change | {"rollout": {"minReadySeconds": 1}}})
    demo.case.wait(
        "the roll to end",
        lambda: demo.settled() and demo.pool()["status"]["updateRevision"] != good["status"]["updateRevision"],
    )
    tried = demo.run("rollback qwen --dry-run")
    assert tried.code == 0 and "max_model_len: 4096 becomes 8192" in tried.text, tried
    assert demo.pool()["spec"]["image"].endswith("0.2.0")
    said = demo.run(f"rollback qwen --to {good['status']['updateRevision']}")
    assert said.code == 0, said
    demo.case.wait(
        "the old revision",
        lambda: demo.settled() and demo.pool()["status"]["updateRevision"] == good["status"]["updateRevision"],
    )
    now = demo.pool()["spec"]
    assert (now["image"], now["engineArgs"]) == (good["spec"]["image"], good["spec"]["engineArgs"])
    assert now["rollout"]["minReadySeconds"] == 1, "no pod is made of it"
    assert "already" in demo.run(f"rollback qwen --to {good['status']['updateRevision']}").text
    assert demo.run("rollback qwen --to 00000000").code == 4
    demo.client.patch(POOLS, NAMESPACE, "qwen", {"spec": {"rollout": {"minReadySeconds": 0}}})
    demo.wait_settled()


def test_drain_keeps_to_the_budget_and_shows_how_far_it_is(demo: Demo) -> None:
    demo.wait_settled()
    victim = demo.pods()[0]["metadata"]
    refused = demo.run(f"drain {victim['name']}")  # nobody counts for the budget here, so it allows none
    assert refused.code == 1 and "budget" in refused.text, refused
    budget = demo.client.get(BUDGETS, NAMESPACE, "qwen")
    allowed = {
        "disruptionsAllowed": 1, "currentHealthy": 2, "desiredHealthy": 1, "expectedPods": 2,
        "observedGeneration": budget["metadata"]["generation"],
    }  # fmt: skip
    demo.client._json("patch", BUDGETS, BUDGETS.path(NAMESPACE, "qwen", "status"), None, {"status": allowed})
    assert demo.run(f"drain {victim['name']} --dry-run").code == 0
    assert "deletionTimestamp" not in demo.client.get(PODS, NAMESPACE, victim["name"])["metadata"]
    demo.held.clear()
    try:
        said = demo.run(f"drain {victim['name']}")
        assert said.code == 0, said
        assert victim["name"] in demo.run("status qwen").text.partition("Drains")[2]
        shown = demo.run(f"timeline {victim['name']}").text.partition("Drain\n")[2]
        assert "accepts requests   0 to 5" in shown and "^" in shown, shown
    finally:
        demo.held.set()
    demo.case.wait(
        "another pod in its place",
        lambda: demo.settled() and victim["uid"] not in {p["metadata"]["uid"] for p in demo.pods()},
    )


# --- what goes wrong ----------------------------------------------------------------------------------------


def test_what_is_not_there_is_told_with_what_is(demo: Demo) -> None:
    said = demo.run("status nothing")
    assert said.code == 4 and "there are qwen, qwen-long" in said.errors, said
    assert demo.run("explain nothing").code == 4


def test_a_pod_of_no_pool_is_left_alone(demo: Demo) -> None:
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "somebody"},
        "spec": {"containers": [{"name": "c", "image": "x"}]},
    }
    made = demo.client.create(PODS, NAMESPACE, pod)
    try:
        said = demo.run("drain somebody")
        assert said.code == 4 and "no pod of a pool 'somebody'" in said.errors, said
        assert "deletionTimestamp" not in demo.client.get(PODS, NAMESPACE, "somebody")["metadata"]
    finally:
        demo.client.delete(PODS, NAMESPACE, "somebody", made["metadata"]["uid"])


def test_who_may_not_is_told_what_the_api_server_said(demo: Demo, server: Server) -> None:
    account = {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "nobody"}}
    with contextlib.suppress(ApiError):
        demo.client.create(CORE["ServiceAccount"], NAMESPACE, account)
    asked = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {}}
    path = CORE["ServiceAccount"].path(NAMESPACE, "nobody", "token")
    token = demo.client._json("create", CORE["ServiceAccount"], path, None, asked)["status"]["token"]
    config = yaml.safe_load(demo.kubeconfig.read_text())
    config["users"] = [{"name": user["name"], "user": {"token": token}} for user in config["users"]]
    mine = demo.directory / "nobody.kubeconfig"
    mine.write_text(yaml.safe_dump(config))
    errors = io.StringIO()
    with contextlib.redirect_stderr(errors):
        assert main(["status", "--kubeconfig", str(mine)]) == 3
    assert "is forbidden" in errors.getvalue() and "Traceback" not in errors.getvalue()
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        assert main(["doctor", "--kubeconfig", str(mine)]) in (0, 1)
    assert "Your right to list pods" in out.getvalue()


def test_names_are_completed(demo: Demo, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("KUBECONFIG", str(demo.kubeconfig))
    assert main(["__complete", "status", "qwen-"]) == 0
    assert capsys.readouterr().out.splitlines() == ["qwen-long", ":4"]


def test_kubectl_finds_it_and_ends_as_it_does(demo: Demo, api: ApiServer, tmp_path: Path) -> None:
    program = tmp_path / "kubectl-vernal"
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -m kubectl_vernal "$@"\n')
    program.chmod(0o755)
    environment = os.environ | {
        "PATH": f"{tmp_path}:{os.environ['PATH']}",
        "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
        "KUBECONFIG": str(demo.kubeconfig),
    }

    def kubectl(*words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [api.kubectl, "vernal", *words], env=environment, capture_output=True, text=True, check=False
        )

    assert "qwen-long" in kubectl("status").stdout
    missing = kubectl("explain", "nothing")
    assert missing.returncode == 4 and "no pod of a pool 'nothing'" in missing.stderr, missing


# --- the page -----------------------------------------------------------------------------------------------


def test_the_page_shows_what_the_verbs_print(demo: Demo) -> None:
    page = PAGE.read_text()
    blocks = re.findall(r"```console\n\$ (kubectl vernal [^\n]*)\n(.*?)```", page, re.S)
    assert len(blocks) >= 8
    for line, text in blocks:
        said = demo.shown.get(_of_another_run(line, demo) if _POD.search(line) else line)
        assert said is not None, f"{line} is on the page, and no test runs it"
        if WRITE:
            command = next(key for key, value in demo.shown.items() if value is said)
            page = page.replace(f"$ {line}\n{text}```", f"$ {command}\n{said.text}```")
        else:
            assert _steady(text) == _steady(said.text), f"{line}: run this test with VERNAL_WRITE_DOCS=1"
    if WRITE:
        PAGE.write_text(page)


_POD = re.compile(r"\b(qwen(?:-long)?)-[0-9a-f]{8}-\d\b")


def _of_another_run(line: str, demo: Demo) -> str:
    """Which of the two pods thaws is a race, and a revision's name changes with the schema's defaults."""
    verb = line.split()[2]
    same = [key for key in demo.shown if key.split()[2] == verb and len(key.split()) == len(line.split())]
    cold = "qwen-long" in line
    return next((key for key in same if ("qwen-long" in key) == cold), "")


def _steady(text: str) -> list[str]:
    """Without what differs from run to run: times, ages, names made of hashes, and so the width of columns."""
    text = re.sub(r"\b\d{4}-\d\d-\d\dT[\d:.]+Z\b", "TIME", text)
    text = _POD.sub(r"\1-POD", text)
    text = re.sub(r"\b[0-9a-f]{12}-[0-9a-f]{8}\b", "CHECKPOINT", text)
    text = re.sub(r"\b[0-9a-f]{8,64}\b", "HASH", text)
    text = re.sub(r"\b\d+(?:[dhms]\d*)+\b", "AGE", text)
    kubernetes = re.compile(
        r"^  (scheduled|container started|ready) .*$", re.MULTILINE
    )  # whole seconds of a fake kubelet
    text = kubernetes.sub(r"  \1", text)
    return sorted(re.sub(r"\s+", " ", line).strip() for line in text.splitlines() if line.strip())


def test_every_verb_is_tried_here() -> None:
    (action,) = (a for a in parser()._actions if isinstance(a, argparse._SubParsersAction))
    tried = set(re.findall(r'(?:run|show)\(f?"(\w+)', Path(__file__).read_text())) | set(
        re.findall(r'^            f?"(\w+)[ "]', Path(__file__).read_text(), re.MULTILINE)
    )
    assert set(action.choices) - tried - {"completion"} == set()


def _reason(item: dict[str, Any], kind: str) -> str:
    return next((str(c["reason"]) for c in item.get("status", {}).get("conditions", []) if c["type"] == kind), "")
