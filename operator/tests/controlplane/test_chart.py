"""The chart as Helm and a real API server see it. That its roles suffice is shown by all other tests here."""

import re
import subprocess
from typing import Any

import pytest
import yaml
from cluster import build
from cluster.apiserver import ApiServer
from controlplane.cases import CORE, Server
from controlplane.chart import CHART, rendered
from vernal_operator.kinds import PODS

pytestmark = pytest.mark.apiserver

EVERYTHING = ("podMonitor.enabled=true", "networkPolicy.enabled=true", "watchNamespace=ml", "rbac.aggregateToEdit=true")


def helm(server: Server, *args: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([server.helm, *args], capture_output=True, text=True, check=False)


@pytest.mark.parametrize("settings", [(), EVERYTHING], ids=["defaults", "everything"])
def test_lint(server: Server, settings: tuple[str, ...]) -> None:
    done = helm(server, "lint", "--strict", str(CHART), *[f"--set={setting}" for setting in settings])
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize(
    "setting", ["threads=0", "logLevel=LOUD", "image.repository=", "relpicas=2", "watchNamespace=A_b"]
)
def test_wrong_values_are_refused(server: Server, setting: str) -> None:
    done = helm(server, "template", "vernal", str(CHART), f"--kube-version={build.OLDEST}", f"--set={setting}")
    assert done.returncode != 0
    assert setting.split("=")[0].split(".")[0] in done.stderr


def test_helm_finds_nothing_to_complain_about(server: Server) -> None:
    done = helm(server, "template", "vernal", str(CHART), "--kube-version=1.34.0")
    assert (done.returncode, done.stderr) == (0, "")


def test_crds_are_those_of_the_models_and_stay(server: Server) -> None:
    crds = [doc for doc in rendered(server.helm, "vernal") if doc["kind"] == "CustomResourceDefinition"]
    generated = [yaml.safe_load(path.read_text()) for path in sorted((CHART.parents[1] / "crds").glob("*.yaml"))]
    assert [crd["spec"] for crd in crds] == [crd["spec"] for crd in generated] and len(crds) == 2
    assert all(crd["metadata"]["annotations"] == {"helm.sh/resource-policy": "keep"} for crd in crds)
    assert not [d for d in rendered(server.helm, "vernal", "crds.install=false") if d["kind"] == crds[0]["kind"]]


def test_roles_have_no_wildcards(server: Server) -> None:
    roles = [d for s in ((), EVERYTHING) for d in rendered(server.helm, "vernal", *s) if d["kind"].endswith("Role")]
    assert roles
    for rule in (rule for role in roles for rule in role["rules"]):
        assert "*" not in rule["apiGroups"] + rule["resources"] + rule["verbs"]
        assert not {"secrets", "nodes/proxy", "pods/exec"} & set(rule["resources"])
        assert "nodes" not in rule["resources"] or rule["verbs"] == ["get"]  # whether one exists, asked by its name


@pytest.mark.every_release
def test_installs_and_its_pod_meets_the_restricted_standard(server: Server, api: ApiServer) -> None:
    name = "restricted"
    labels = {"pod-security.kubernetes.io/enforce": "restricted"}
    namespace = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}}
    server.client.create(CORE["Namespace"], "", namespace)
    at = [f"--kubeconfig={api.kubeconfig}", f"--namespace={name}"]
    settings = ["--set=crds.install=false,networkPolicy.enabled=true"]
    for _ in range(2):  # the second is an upgrade that changes nothing
        done = helm(server, "upgrade", "--install", "full", str(CHART), *at, *settings)
        assert done.returncode == 0, done.stderr
    assert "rollout status deployment/full-vernal" in done.stdout
    (deployment,) = [d for d in rendered(server.helm, "full") if d["kind"] == "Deployment"]
    template: dict[str, Any] = deployment["spec"]["template"]
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "try"}, "spec": template["spec"]}
    created = server.client.create(PODS, name, pod)  # PodSecurity admission is on
    assert created["spec"]["containers"][0]["securityContext"]["readOnlyRootFilesystem"] is True
    done = helm(server, "uninstall", "full", *at)
    assert done.returncode == 0, done.stderr


def test_the_command_line_that_it_gives_is_understood(server: Server) -> None:
    for settings in ((), EVERYTHING):
        (deployment,) = [d for d in rendered(server.helm, "vernal", *settings) if d["kind"] == "Deployment"]
        from vernal_operator.main import _parser

        arguments = _parser().parse_args(deployment["spec"]["template"]["spec"]["containers"][0]["args"])
        assert arguments.namespace == ("ml" if settings else None)
    assert re.fullmatch(r"\S+:\d+\.\d+\.\d+", deployment["spec"]["template"]["spec"]["containers"][0]["image"])
