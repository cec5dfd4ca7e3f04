"""The API server by itself: a crash loses nothing. KUBECONFIG keeps the embedded cluster from being built."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from cluster import build, proc
from cluster.apiserver import ApiServer
from cluster.errors import ClusterError

pytestmark = pytest.mark.apiserver


@pytest.fixture(scope="module")
def server() -> Iterator[ApiServer]:
    with ApiServer() as started:
        yield started


def kubectl(server: ApiServer, *arguments: str) -> str:
    command = [server.kubectl, "--kubeconfig", str(server.kubeconfig), *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def enforces_rbac(server: ApiServer) -> bool:
    asked = ["auth", "can-i", "list", "pods", "--as", "nobody"]
    command = [server.kubectl, "--kubeconfig", str(server.kubeconfig), *asked]
    return subprocess.run(command, check=False, capture_output=True, text=True).stdout.strip() == "no"


def test_it_is_the_newest_release_and_enforces_rbac(server: ApiServer) -> None:
    assert f"Server Version: {build.NEWEST}" in kubectl(server, "version")
    assert enforces_rbac(server)


def test_the_oldest_release_is_there_for_who_asks() -> None:
    with ApiServer(release=build.OLDEST) as oldest:
        assert f"Server Version: {build.OLDEST}" in kubectl(oldest, "version")
        assert enforces_rbac(oldest)


@pytest.mark.parametrize("component", ["kube-apiserver", "etcd"])
def test_what_was_written_survives_a_crash(server: ApiServer, component: str) -> None:
    kubectl(server, "create", "namespace", f"before-{component}")
    server.kill(component)
    server.start()
    assert "Active" in kubectl(server, "get", "namespace", f"before-{component}")


def test_what_was_written_survives_a_stop(server: ApiServer) -> None:
    kubectl(server, "create", "configmap", "kept", "--from-literal=key=value")
    url = server.url
    server.stop()
    assert list(proc.owned(server.owner)) == []
    server.start()
    assert server.url == url
    assert kubectl(server, "get", "configmap", "kept", "-o", "jsonpath={.data.key}") == "value"


def test_only_its_own_components_can_be_killed(server: ApiServer) -> None:
    with pytest.raises(ClusterError, match="kubelet"):
        server.kill("kubelet")


def test_two_do_not_meet_and_close_leaves_nothing(server: ApiServer) -> None:
    with ApiServer() as other:
        assert other.url != server.url
        kubectl(other, "create", "namespace", "only-there")
        assert "only-there" not in kubectl(server, "get", "namespaces")
    assert not other.directory.exists()
    assert list(proc.owned(other.owner)) == []


def cluster(arguments: list[str], environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "cluster", *arguments], check=False, capture_output=True, text=True,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2]), **environment},
    )  # fmt: skip


def test_with_kubeconfig_up_only_checks_that_cluster(server: ApiServer, tmp_path: Path) -> None:
    environment = {
        "KUBECONFIG": str(server.kubeconfig),
        "VERNAL_STATE": str(tmp_path / "state"),
        "VERNAL_CACHE": str(tmp_path / "cache"),
        "PATH": f"{Path(server.kubectl).parent}:{os.environ['PATH']}",
    }
    done = cluster(["up"], environment)
    assert done.returncode == 0, done.stderr
    assert f"using the cluster of KUBECONFIG={server.kubeconfig}" in done.stderr
    assert cluster(["kubeconfig"], environment).stdout.strip() == str(server.kubeconfig)
    refused = cluster(["load-image", "image.tar"], environment)
    assert refused.returncode == 1 and "registry" in refused.stderr
    assert list(tmp_path.iterdir()) == []


def test_with_a_kubeconfig_that_does_not_answer_up_says_so(server: ApiServer, tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    broken.write_text(server.kubeconfig.read_text().replace(server.url, "https://127.0.0.1:1"))
    done = cluster(["up"], {"KUBECONFIG": str(broken), "PATH": f"{Path(server.kubectl).parent}:{os.environ['PATH']}"})
    assert done.returncode == 1
    assert "does not answer" in done.stderr and "unset KUBECONFIG" in done.stderr
