"""The whole life of a cluster on this machine, with a state directory of its own.

A cluster that is up already is taken down meanwhile and brought up again at the end, with its data.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from cluster import host, layout, leftovers, proc
from cluster.trial import cluster, curl, environment, names, nothing_left, rolled_out
from patience import GUARD_SECONDS, until

pytestmark = pytest.mark.scenario


def checkpointer(folder: Path) -> list[dict[str, object]]:
    """A pod as a worker is one: the capabilities of a checkpoint, and storage that is bound statically."""
    storage = {"accessModes": ["ReadWriteMany"], "storageClassName": ""}
    capabilities = ["SYS_ADMIN", "SYS_PTRACE", "CHECKPOINT_RESTORE", "NET_ADMIN"]
    return [
        {
            "apiVersion": "v1",
            "kind": "PersistentVolume",
            "metadata": {"name": "store"},
            "spec": {**storage, "capacity": {"storage": "1Gi"}, "hostPath": {"path": str(folder)}},
        },
        {
            "apiVersion": "v1",
            "kind": "PersistentVolumeClaim",
            "metadata": {"name": "store"},
            "spec": {**storage, "resources": {"requests": {"storage": "1Gi"}}},
        },
        {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": "worker"},
            "spec": {
                "terminationGracePeriodSeconds": 1,
                "volumes": [{"name": "store", "persistentVolumeClaim": {"claimName": "store"}}],
                "containers": [{
                    "name": "worker",
                    "image": layout.PAUSE_IMAGE,
                    "securityContext": {"capabilities": {"add": capabilities}},
                    "volumeMounts": [{"name": "store", "mountPath": "/store"}],
                }],
            },
        },
    ]  # fmt: skip


def proxy(state: Path) -> subprocess.Popen[str]:
    """`kubectl proxy` that listens, as a program that was killed leaves it."""
    process = subprocess.Popen(
        [sys.executable, "-m", "cluster", "kubectl", "proxy", "--port=0"], stdout=subprocess.PIPE, text=True,
        env=environment(state),
    )  # fmt: skip
    assert process.stdout is not None and "Starting to serve" in process.stdout.readline()
    return process


@pytest.fixture(scope="module")
def state(before: leftovers.Snapshot, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    directory = tmp_path_factory.mktemp("node") / "state"
    cluster(directory, "up")
    yield directory
    cluster(directory, "clean")
    assert not directory.exists()
    assert not directory.with_name("state.lock").exists()
    nothing_left(before)


@pytest.fixture(scope="module")
def web(state: Path) -> str:
    """The address of a Service with two ready pods behind it."""
    return rolled_out(state)


def test_a_second_up_does_nothing(state: Path) -> None:
    record = proc.Processes(state / "run", state / "logs", str(state)).running("kubelet")
    assert "was up already" in cluster(state, "up").stderr
    assert proc.Processes(state / "run", state / "logs", str(state)).running("kubelet") == record


def test_a_service_is_reached_from_the_host(state: Path, web: str) -> None:
    until("both pods to answer", lambda: {f"pod/{curl(f'http://{web}')}" for _ in range(20)} == names(state))


def test_a_service_is_reached_from_a_pod_and_so_is_the_api_with_its_own_account(state: Path, web: str) -> None:
    pod = min(names(state))
    # Twenty times, so that the pod also meets itself behind the Service.
    answers = {
        cluster(state, "kubectl", "exec", pod, "--", "/pod", "get", f"http://{web}").stdout.strip() for _ in range(20)
    }
    assert {f"pod/{answer}" for answer in answers} == names(state)
    api = f"https://{layout.KUBERNETES_SERVICE_IP}"
    assert "gitVersion" in cluster(state, "kubectl", "exec", pod, "--", "/pod", "get", f"{api}/version").stdout
    refused = cluster(state, "kubectl", "exec", pod, "--", "/pod", "get", f"{api}/api/v1/nodes", check=False)
    assert refused.returncode != 0 and "403" in refused.stderr


def test_limits_are_enforced_by_the_kernel(state: Path, web: str) -> None:
    groups = {record.pid for record in host.pod_processes()}
    limits = {
        int(Path("/sys/fs/cgroup/memory" + line.partition("memory:")[2] + "/memory.limit_in_bytes").read_text())
        for pid in groups
        for line in Path(f"/proc/{pid}/cgroup").read_text().splitlines()
        if ":memory:" in line
    }
    assert 64 << 20 in limits


def test_a_pod_gets_capabilities_and_statically_bound_storage(state: Path, tmp_path: Path) -> None:
    items = {"apiVersion": "v1", "kind": "List", "items": checkpointer(tmp_path)}
    cluster(state, "kubectl", "apply", "-f", "-", stdin=json.dumps(items))
    cluster(state, "kubectl", "wait", "--for=condition=Ready", "pod/worker", f"--timeout={GUARD_SECONDS:.0f}s")
    assert cluster(state, "kubectl", "get", "pvc/store", "-o", "jsonpath={.status.phase}").stdout == "Bound"
    (worker,) = [record for record in host.pod_processes() if str(tmp_path) in _mountinfo(record.pid)]
    status = dict(line.split(":", 1) for line in Path(f"/proc/{worker.pid}/status").read_text().splitlines())
    effective = int(status["CapEff"], 16)
    assert all(effective >> number & 1 for number in (21, 19, 40, 12))  # the four, as in linux/capability.h
    cluster(state, "kubectl", "delete", "pod/worker", "pvc/store", "pv/store", "--wait=true")


def _mountinfo(pid: int) -> str:
    return Path(f"/proc/{pid}/mountinfo").read_text()


def test_an_image_that_is_there_is_not_loaded_again(state: Path, tmp_path: Path) -> None:
    from cluster import build, images

    images.write_layout(tmp_path / "image", "demo:2", {"pod": Path(build.ensure()["pod"])})
    first = cluster(state, "load-image", str(tmp_path / "image"))
    assert first.stdout.strip() == "docker.io/library/demo:2" and "loading" in first.stderr
    again = cluster(state, "load-image", str(tmp_path / "image"))
    assert again.stdout == first.stdout and "loading" not in again.stderr
    subprocess.run(["tar", "-C", tmp_path / "image", "-cf", tmp_path / "image.tar", "."], check=True)
    renamed = cluster(state, "load-image", str(tmp_path / "image.tar"), "--name", "demo:3")
    assert renamed.stdout.strip() == "docker.io/library/demo:3"
    cluster(state, "kubectl", "run", "demo", "--image=demo:3", "--image-pull-policy=Never", "--restart=Never")
    cluster(state, "kubectl", "wait", "--for=condition=Ready", "pod/demo", f"--timeout={GUARD_SECONDS:.0f}s")
    cluster(state, "kubectl", "delete", "pod/demo", "--now")


def test_helm_installs_into_it(state: Path, tmp_path: Path) -> None:
    (tmp_path / "templates").mkdir()
    (tmp_path / "Chart.yaml").write_text("apiVersion: v2\nname: tiny\nversion: 0.1.0\n")
    (tmp_path / "templates/map.yaml").write_text(
        'apiVersion: v1\nkind: ConfigMap\nmetadata: {name: "{{ .Release.Name }}"}\ndata: {key: value}\n'
    )
    cluster(state, "helm", "install", "tiny", str(tmp_path))
    assert cluster(state, "kubectl", "get", "configmap/tiny", "-o", "jsonpath={.data.key}").stdout == "value"


@pytest.mark.parametrize("killed", [["kubelet"], ["containerd", "kube-proxy"], ["etcd", "kube-apiserver"]])
def test_what_was_killed_is_repaired_and_pods_live_on(state: Path, web: str, killed: list[str]) -> None:
    pods, containers = names(state), {record.pid for record in host.pod_processes()}
    processes = proc.Processes(state / "run", state / "logs", str(state))
    for name in killed:
        processes.kill(name)
    assert cluster(state, "status", check=False).returncode == 1
    repaired = cluster(state, "up").stderr
    assert all(name in repaired.splitlines()[-1] for name in killed)
    cluster(state, "status")
    assert names(state) == pods
    assert {record.pid for record in host.pod_processes()} == containers
    until("an answer", lambda: f"pod/{curl(f'http://{web}')}" in pods)


def test_down_leaves_nothing_and_up_brings_the_pods_back(state: Path, web: str, before: leftovers.Snapshot) -> None:
    with proxy(state) as forgotten:
        try:
            cluster(state, "down")
            assert forgotten.poll() is not None, "kubectl runs on, for a cluster that is gone"
        finally:
            forgotten.kill()
    nothing_left(before)
    assert cluster(state, "status", check=False).returncode == 1
    cluster(state, "down")  # a second time is no error
    cluster(state, "up")
    until("an answer", lambda: f"pod/{curl(f'http://{web}')}" in names(state))


def test_down_after_everything_was_killed_leaves_nothing(state: Path, web: str, before: leftovers.Snapshot) -> None:
    proc.end(list(proc.owned(str(state))), patience=0)  # all components and shims at once, as the OOM killer might
    cluster(state, "down")
    nothing_left(before)
    cluster(state, "up")
    until("an answer", lambda: f"pod/{curl(f'http://{web}')}" in names(state))
