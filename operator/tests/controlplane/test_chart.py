"""The chart as Helm and a real API server see it. That its roles suffice is shown by all other tests here."""

import json
import re
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import checkers
import pytest
import yaml
from cluster import build
from cluster.apiserver import ApiServer
from common.ports import free_port
from controlplane.cases import CORE, POOL, SYSTEM, Case, Server, admin, pool
from controlplane.chart import ADMISSION, CHART, IMAGE, rendered
from patience import until
from vernal_operator.client import ApiError, Client
from vernal_operator.kinds import CHECKPOINTS, LEASES, PODS, POOLS, Kind

pytestmark = pytest.mark.apiserver

EVERYTHING = (
    "podMonitor.enabled=true", "networkPolicy.enabled=true", "watchNamespace=ml", "rbac.aggregateToEdit=true",
    "replicas=2", "dashboards.enabled=true", "prometheusRule.enabled=true", "networkPolicy.workers.namespaces={ml}",
)  # fmt: skip
EXAMPLES = sorted((CHART / "ci").glob("*-values.yaml"))
PREVIOUS = Path(__file__).parent / "previous" / "vernal-0.1.0.tgz"
"""The chart before names, roles and monitoring of its own (git history has it unpacked)."""
DEPLOYMENT = Kind("apps", "v1", "Deployment", "deployments")
CRD = Kind("apiextensions.k8s.io", "v1", "CustomResourceDefinition", "customresourcedefinitions", False)
CHECKPOINT = {
    "apiVersion": "vernal.dev/v1alpha1",
    "kind": "VLLMCheckpoint",
    "metadata": {"name": "c"},
    "spec": {
        "identity": "0" * 64, "hostTuple": "1" * 64, "model": "tiny", "image": "worker:1",
        "storage": {"claimName": "store"},
    },
}  # fmt: skip
CLUSTER_ROLE = Kind("rbac.authorization.k8s.io", "v1", "ClusterRole", "clusterroles", False)


def helm(server: Server, *args: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([server.helm, *args], capture_output=True, text=True, check=False)


def there(client: Client, kind: str, name: str, where: str = "", **labels: str) -> None:
    """Make it, unless it is there."""
    try:
        body = {"apiVersion": "v1", "kind": kind, "metadata": {"name": name, "labels": labels}}
        client.create(CORE[kind], where, body)
    except ApiError as error:
        assert error.conflict


def namespace(client: Client, name: str, **labels: str) -> None:
    there(client, "Namespace", name, **labels)


def names(client: Client, kind: Kind, where: str | None = None) -> set[str]:
    """Of the objects of a kind, in a namespace or in all."""
    return {item["metadata"]["name"] for item in json.loads(client.list_page(kind, where, {}))["items"]}


@pytest.mark.parametrize("settings", [(), EVERYTHING], ids=["defaults", "everything"])
def test_lint(server: Server, settings: tuple[str, ...]) -> None:
    done = helm(server, "lint", "--strict", str(CHART), *[f"--set={setting}" for setting in (IMAGE, *settings)])
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize(
    "setting",
    ["threads=0", "logLevel=LOUD", "relpicas=2", "watchNamespace=A_b", "image.digest=sha256:1", "extraArgs=x",
     "networkPolicy.workers.namespaces={A}", "podMonitor.interval=often", "serviceAccount.creat=false",
     "tracing.endpoint=collector:4317", "tracing.sampler=sometimes", "tracing.headersSecret.name=A_b"],
)  # fmt: skip
def test_wrong_values_are_refused(server: Server, setting: str) -> None:
    done = helm(server, "template", "vernal", str(CHART), f"--kube-version={build.OLDEST}", f"--set={IMAGE},{setting}")
    assert done.returncode != 0
    assert setting.split("=")[0].split(".")[0] in done.stderr


def test_a_repository_is_required_and_the_message_says_what_to_do(server: Server) -> None:
    done = helm(server, "template", "vernal", str(CHART), f"--kube-version={build.OLDEST}")
    assert done.returncode != 0
    assert "image.repository is required" in done.stderr and "--set image.repository=" in done.stderr


def test_helm_finds_nothing_to_complain_about(server: Server) -> None:
    done = helm(server, "template", "vernal", str(CHART), "--kube-version=1.34.0", f"--set={IMAGE}")
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


def test_one_namespace_needs_no_rights_on_the_cluster(server: Server) -> None:
    """What a namespace's admin installs, with CRDs that somebody else has applied."""
    settings = ("watchNamespace=ml", "crds.install=false", "admissionPolicy.enabled=false")
    made = rendered(server.helm, "vernal", *settings)
    assert {doc["metadata"].get("namespace") for doc in made} == {"ml", SYSTEM}
    assert {doc["metadata"]["name"] for doc in made if doc["kind"] == "Role"} == {
        f"{SYSTEM}-vernal", "vernal-lease", *(f"{SYSTEM}-vernal-{who}" for who in ("view", "edit", "admin"))
    }  # fmt: skip


def test_the_image_by_digest(server: Server) -> None:
    digest = "sha256:" + "0123456789abcdef" * 4
    made = rendered(server.helm, "vernal", f"image.digest={digest}", "image.tag=ignored")
    images = [doc["spec"]["template"]["spec"]["containers"][0]["image"] for doc in made if doc["kind"] == "Deployment"]
    images += [doc["spec"]["containers"][0]["image"] for doc in made if doc["kind"] == "Pod"]
    assert set(images) == {f"registry.example.com/vernal-operator@{digest}"} and len(images) == 2


def test_a_service_account_that_exists_is_used(server: Server) -> None:
    made = rendered(server.helm, "vernal", "serviceAccount.create=false", "serviceAccount.name=own")
    assert not [doc for doc in made if doc["kind"] == "ServiceAccount"]
    (deployment,) = [doc for doc in made if doc["kind"] == "Deployment"]
    assert deployment["spec"]["template"]["spec"]["serviceAccountName"] == "own"
    subjects = [subject for doc in made if doc["kind"].endswith("Binding") for subject in doc.get("subjects", [])]
    assert {subject["name"] for subject in subjects} == {"own"}


def test_workers_admin_port_is_for_the_operator_and_prometheus(server: Server) -> None:
    made = rendered(server.helm, "vernal", "networkPolicy.workers.namespaces={ml,other}")
    policies = [doc for doc in made if doc["kind"] == "NetworkPolicy"]
    assert [doc["metadata"]["namespace"] for doc in policies] == ["ml", "other"]
    (pod,) = [doc["spec"]["template"] for doc in made if doc["kind"] == "Deployment"]
    for policy in policies:
        rules = [rule for rule in policy["spec"]["ingress"] if {"port": "admin"} in rule["ports"]]
        assert len(rules) == 1 and len(rules[0]["from"]) == 2
        operator, prometheus = rules[0]["from"]
        assert operator["podSelector"]["matchLabels"].items() <= pod["metadata"]["labels"].items()
        assert operator["namespaceSelector"] == {"matchLabels": {"kubernetes.io/metadata.name": SYSTEM}}
        assert prometheus["podSelector"]["matchLabels"] == {"app.kubernetes.io/name": "prometheus"}


@pytest.fixture(scope="session")
def kubectl(api: ApiServer) -> list[str]:
    """kubectl, for a server that knows the Prometheus operator's kinds, too."""
    command = [api.kubectl, f"--kubeconfig={api.kubeconfig}"]
    files = [f"--filename={crd}" for crd in checkers.monitoring_crds()]
    subprocess.run([*command, "apply", "--server-side", *files], check=True, capture_output=True)
    # Not `kubectl wait`, which gives up where a definition has no conditions yet (`conditions: null`).
    kinds = [*command, "get", "podmonitors,prometheusrules", "--all-namespaces"]
    until("the kinds to be served", lambda: subprocess.run(kinds, capture_output=True).returncode == 0)
    return command


@pytest.mark.every_release
@pytest.mark.parametrize("values", EXAMPLES, ids=lambda path: path.stem)
def test_the_api_server_takes_every_example(server: Server, kubectl: list[str], values: Path) -> None:
    """A dry run of all that is rendered; the kinds of the Prometheus operator by its own CRDs."""
    for name in ("ml", SYSTEM):
        namespace(server.client, name)
    command = [server.helm, "template", "vernal", str(CHART), f"--namespace={SYSTEM}", f"--values={values}"]
    command += [f"--kube-version={build.OLDEST}", f"--api-versions={ADMISSION}/v1/ValidatingAdmissionPolicy"]
    text = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    wanted = [doc for doc in yaml.safe_load_all(text) if doc]
    for account in {doc["spec"]["serviceAccountName"] for doc in wanted if doc["kind"] == "Pod"}:
        there(server.client, "ServiceAccount", account, SYSTEM)  # which a dry run does not leave for the pod
    apply = [
        *kubectl,
        "apply",
        "--server-side",
        "--force-conflicts",
        "--dry-run=server",
        "--validate=strict",
        "-f",
        "-",
    ]
    done = subprocess.run(apply, input=text, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("serverside-applied") == len(wanted) > 10, done.stdout


@pytest.mark.every_release
def test_installs_and_its_pod_meets_the_restricted_standard(server: Server, api: ApiServer) -> None:
    name = "restricted"
    namespace(server.client, name, **{"pod-security.kubernetes.io/enforce": "restricted"})
    at = [f"--kubeconfig={api.kubeconfig}", f"--namespace={name}"]
    settings = [f"--set={IMAGE},crds.install=false,networkPolicy.enabled=true,replicas=2"]
    for _ in range(2):  # the second is an upgrade that changes nothing
        done = helm(server, "upgrade", "--install", "full", str(CHART), *at, *settings)
        assert done.returncode == 0, done.stderr
    assert "rollout status deployment/full-vernal" in done.stdout
    made = rendered(server.helm, "full")
    (deployment,) = [d for d in made if d["kind"] == "Deployment"]
    (test,) = [d for d in made if d["kind"] == "Pod"]
    for which, spec in (("try", deployment["spec"]["template"]["spec"]), ("test", test["spec"])):
        pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": which}, "spec": spec}
        created = server.client.create(PODS, name, pod)  # PodSecurity admission is on
        assert created["spec"]["containers"][0]["securityContext"]["readOnlyRootFilesystem"] is True
    done = helm(server, "uninstall", "full", *at)
    assert done.returncode == 0, done.stderr


def test_two_releases_of_one_name_side_by_side(server: Server, api: ApiServer) -> None:
    for where in ("left", "right"):
        namespace(server.client, where)
        settings = f"--set={IMAGE},crds.install=false,watchNamespace={where}"
        done = helm(
            server, "install", "twin", str(CHART), f"--kubeconfig={api.kubeconfig}", f"--namespace={where}", settings
        )
        assert done.returncode == 0, done.stderr
    leases = {
        re.findall('--lease=[^"]*', json.dumps(server.client.get(DEPLOYMENT, where, "twin-vernal")))[0]
        for where in ("left", "right")
    }
    assert leases == {"--lease=left/twin-vernal", "--lease=right/twin-vernal"}
    done = helm(server, "uninstall", "twin", f"--kubeconfig={api.kubeconfig}", "--namespace=left")
    assert done.returncode == 0, done.stderr
    assert names(server.client, DEPLOYMENT, "left") == set() and names(server.client, DEPLOYMENT, "right") == {
        "twin-vernal"
    }
    helm(server, "uninstall", "twin", f"--kubeconfig={api.kubeconfig}", "--namespace=right")


def test_roles_for_people(server: Server, api: ApiServer) -> None:
    """By the API server's own authorizer; no controller runs that would add them to Kubernetes' own roles."""
    made = {d["metadata"]["name"]: d for d in rendered(server.helm, "vernal") if d["kind"] == "ClusterRole"}
    namespace(server.client, "people")
    kubectl = [api.kubectl, f"--kubeconfig={api.kubeconfig}", "--namespace=people"]
    for who in ("view", "edit", "admin"):
        role = f"{SYSTEM}-vernal-{who}"
        labels = {label for label in made[role]["metadata"]["labels"] if "aggregate-to" in label}
        assert f"rbac.authorization.k8s.io/aggregate-to-{who}" in labels or who == "edit"
        bind = [*kubectl, "create", "rolebinding", who, f"--clusterrole={role}", f"--user={who}"]
        subprocess.run(bind, check=True, capture_output=True)
        may = [*kubectl, "auth", "can-i", "list", "vllmworkerpools", f"--as={who}"]
        until("the binding to count", lambda may=may: subprocess.run(may, capture_output=True).returncode == 0)  # type: ignore[misc]
    allowed = {
        who: {
            (verb, kind)
            for verb in ("list", "create", "deletecollection")
            for kind in ("vllmworkerpools", "vllmcheckpoints")
            if subprocess.run(
                [*kubectl, "auth", "can-i", verb, kind, f"--as={who}"], capture_output=True, check=False
            ).returncode
            == 0
        }
        for who in ("view", "edit", "admin")
    }
    both = ("vllmworkerpools", "vllmcheckpoints")
    assert allowed["view"] == {("list", kind) for kind in both}
    assert ("create", "vllmworkerpools") in allowed["edit"] and ("create", "vllmcheckpoints") not in allowed["edit"]
    assert allowed["admin"] == {(verb, kind) for verb in ("list", "create", "deletecollection") for kind in both}


def test_the_command_line_that_it_gives_is_understood(server: Server) -> None:
    drivers = "admissionPolicy.csiDrivers={a.example,b.example}"
    cache = ("nodeCache.directory=/var/lib/vernal-cache", "nodeCache.size=2Ti")
    fetched = ("nodeCache.prefetch.nodes=8", "nodeCache.prefetch.atOnce=2")
    for settings in ((), (*EVERYTHING, "extraArgs={--lease-seconds=30}", drivers, *cache)):
        (deployment,) = [d for d in rendered(server.helm, "vernal", *settings) if d["kind"] == "Deployment"]
        from vernal_operator.main import _parser

        arguments = _parser().parse_args(deployment["spec"]["template"]["spec"]["containers"][0]["args"])
        assert arguments.namespace == ("ml" if settings else None)
        assert arguments.lease_seconds == (30.0 if settings else 15.0)
        assert arguments.csi_driver == (["a.example", "b.example"] if settings else []), "as its policy is told"
        told = (arguments.node_cache, arguments.node_cache_size)
        assert told == (("/var/lib/vernal-cache", 2 << 40) if settings else ("", 100 << 30))
    (deployment,) = [d for d in rendered(server.helm, "vernal", *cache, *fetched) if d["kind"] == "Deployment"]
    arguments = _parser().parse_args(deployment["spec"]["template"]["spec"]["containers"][0]["args"])
    assert (arguments.prefetch, arguments.prefetch_at_once) == (8, 2)
    with pytest.raises(subprocess.CalledProcessError):
        rendered(server.helm, "vernal", *cache, *fetched, "watchNamespace=ml")
    assert re.fullmatch(r"\S+:\d+\.\d+\.\d+", deployment["spec"]["template"]["spec"]["containers"][0]["image"])


def _variables(made: list[dict[str, Any]]) -> dict[str, dict[str, dict[str, Any]]]:
    """OpenTelemetry's, by Deployment."""
    containers = {
        doc["metadata"]["name"]: doc["spec"]["template"]["spec"]["containers"][0]
        for doc in made
        if doc["kind"] == "Deployment"
    }
    return {
        name: {one["name"]: one for one in container.get("env", []) if one["name"].startswith("OTEL_")}
        for name, container in containers.items()
    }


def test_operator_and_waker_are_told_where_spans_go(server: Server) -> None:
    told = ("waker.enabled=true", "tracing.endpoint=https://collector:4318", "tracing.headersSecret.name=otlp")
    found = _variables(rendered(server.helm, "vernal", *told))
    assert found["vernal"] == found["vernal-waker"]
    assert found["vernal"].pop("OTEL_EXPORTER_OTLP_HEADERS")["valueFrom"] == {
        "secretKeyRef": {"name": "otlp", "key": "headers"}
    }
    values = {name: one["value"] for name, one in found["vernal"].items()}
    assert values == {"OTEL_EXPORTER_OTLP_ENDPOINT": "https://collector:4318", "OTEL_TRACES_SAMPLER": "always_on"}
    without = ("waker.enabled=true", "tracing.headersSecret.name=otlp")
    assert _variables(rendered(server.helm, "vernal", *without)) == {"vernal": {}, "vernal-waker": {}}


def test_the_operator_may_ask_wakers_which_request_has_woken_a_pool(server: Server) -> None:
    """Where their policy lets in but what it names."""
    made = rendered(server.helm, "vernal", "waker.enabled=true", "networkPolicy.enabled=true")
    (service,) = [doc for doc in made if doc["kind"] == "Service" and doc["metadata"]["name"] == "vernal-waker"]
    (policy,) = [doc for doc in made if doc["kind"] == "NetworkPolicy" and doc["metadata"]["name"] == "vernal-waker"]
    (port,) = service["spec"]["ports"]
    open_ports = [port for rule in policy["spec"]["ingress"] if "from" not in rule for port in rule["ports"]]
    assert port["port"] == 8081 and {"port": port["targetPort"]} in open_ports


def test_what_helm_test_runs(server: Server, make_case: Callable[..., Case]) -> None:
    """The script of its pod, against a running operator, and against none."""
    (test,) = [d for d in rendered(server.helm, "vernal") if d["kind"] == "Pod"]
    assert test["metadata"]["annotations"]["helm.sh/hook"] == "test"
    (container,) = test["spec"]["containers"]
    script, address = container["args"]
    (service,) = [d for d in rendered(server.helm, "vernal") if d["kind"] == "Service"]
    port = service["spec"]["ports"][0]["port"]
    assert address == f"http://{service['metadata']['name']}.{SYSTEM}.svc:{port}"
    metrics = free_port()

    def run() -> subprocess.CompletedProcess[str]:
        command = [sys.executable, *container["command"][1:], script, f"http://127.0.0.1:{metrics}"]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    assert run().returncode != 0
    case = make_case(f"--metrics-port={metrics}")
    case.start()
    case.wait("the operator to be ready", lambda: run().returncode == 0)
    case.create(pool(replicas=1))
    case.wait_settled(1)
    done = run()
    assert done.returncode == 0 and "ready" in done.stdout, done.stderr


def test_commands_of_the_runbooks(server: Server, api: ApiServer, case: Case) -> None:
    """Those that only read the API server; what they read is there."""
    case.client.create(POOLS, case.namespace, pool(replicas=1))
    case.client.create(CHECKPOINTS, case.namespace, CHECKPOINT)
    lease = {"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": {"name": "vernal"}}
    server.client.apply(LEASES, SYSTEM, lease)
    ran = 0
    for page in sorted((CHART.parents[1] / "docs" / "runbooks").glob("*.md")):
        for line in re.findall(r"^kubectl .*", page.read_text(), re.MULTILINE):
            words = shlex.split(line.partition(" | ")[0])
            if not {"get", "describe"} & set(words) or "/proxy/" in line:
                continue  # needs pods, or metrics of nodes
            name = "c" if "vck" in words else POOL
            told = [word.replace("NAMESPACE", case.namespace).replace("NAME", name) for word in words[1:]]
            done = subprocess.run(
                [api.kubectl, f"--kubeconfig={api.kubeconfig}", *told], capture_output=True, text=True, check=False
            )
            assert done.returncode == 0, f"{page.name}: {line}: {done.stderr}"
            ran += 1
    assert ran > 15


# --- from one release to the next, in a cluster of its own ---


@pytest.fixture
def fresh() -> Iterator[ApiServer]:
    with ApiServer() as server:
        yield server


def test_install_upgrade_rollback_uninstall(fresh: ApiServer) -> None:
    """From the release before: what is stored survives all of it."""
    client = admin(fresh.kubeconfig)
    namespace(client, "ml")

    def run(*args: str) -> str:
        command = [
            str(Path(fresh.kubectl).parent / "helm"),
            *args,
            f"--kubeconfig={fresh.kubeconfig}",
            f"--namespace={SYSTEM}",
        ]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    run("install", "vernal", str(PREVIOUS), "--create-namespace", f"--set={IMAGE}")
    before = _crds(client)
    stored = _store(client)

    run("upgrade", "vernal", str(CHART), "--reset-then-reuse-values", "--set=replicas=2")  # as docs/upgrade.md says
    assert _crds(client) == {crd["metadata"]["name"]: _sketch(crd) for crd in _generated()} != before
    assert _stored(client) == stored
    assert client.get(DEPLOYMENT, SYSTEM, "vernal")["spec"]["replicas"] == 2
    client.apply(POOLS, "ml", pool(replicas=3) | {"metadata": {"name": "pool", "namespace": "ml"}})
    stored = _stored(client)

    run("rollback", "vernal", "1")
    assert _crds(client) == before
    assert _stored(client) == stored
    assert client.get(DEPLOYMENT, SYSTEM, "vernal")["spec"]["replicas"] == 1

    run("upgrade", "vernal", str(CHART), f"--set={IMAGE}")
    run("uninstall", "vernal")
    assert _stored(client) == stored
    assert set(_crds(client)) == set(before)
    assert names(client, DEPLOYMENT, SYSTEM) == set()
    assert not {name for name in names(client, CLUSTER_ROLE) if "vernal" in name}
    run("install", "vernal", str(CHART), f"--set={IMAGE}")  # the CRDs that stayed are this release's still
    assert _stored(client) == stored


def _generated() -> list[dict[str, Any]]:
    return [yaml.safe_load(path.read_text()) for path in sorted((CHART.parents[1] / "crds").glob("*.yaml"))]


def _crds(client: Client) -> dict[str, Any]:
    """What people see of our CRDs, by name."""
    items = json.loads(client.list_page(CRD, None, {}))["items"]
    return {crd["metadata"]["name"]: _sketch(crd) for crd in items if crd["spec"]["group"] == "vernal.dev"}


def _sketch(crd: dict[str, Any]) -> list[Any]:
    """Columns, and fields with their descriptions; the API server writes some of the rest in its own way."""

    def fields(node: dict[str, Any], path: str) -> Iterator[tuple[str, str]]:
        for name, inner in node.get("properties", {}).items():
            yield f"{path}.{name}", inner.get("description", "")
            yield from fields(inner.get("items", inner), f"{path}.{name}")

    (version,) = crd["spec"]["versions"]
    return [version["additionalPrinterColumns"], sorted(fields(version["schema"]["openAPIV3Schema"], ""))]


def _store(client: Client) -> list[Any]:
    """A pool and a checkpoint, each with a status."""
    client.create(POOLS, "ml", pool(replicas=2))
    client.create(CHECKPOINTS, "ml", CHECKPOINT)
    for kind, name, status in (
        (POOLS, "pool", {"readyReplicas": 2}),
        (CHECKPOINTS, "c", {"sizeBytes": 2**30, "restores": 3}),
    ):
        body = {
            "apiVersion": kind.api_version,
            "kind": kind.name,
            "metadata": {"name": name, "namespace": "ml"},
            "status": status,
        }
        client.apply(kind, "ml", body, "status")
    return _stored(client)


def _stored(client: Client) -> list[Any]:
    """Identity, spec and status of what is stored."""
    found = [client.get(kind, "ml", name) for kind, name in ((POOLS, "pool"), (CHECKPOINTS, "c"))]
    return [(one["metadata"]["uid"], one["spec"], one["status"]) for one in found]
