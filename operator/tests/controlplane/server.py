"""An API server with the chart's CRDs and roles, the node of `controlplane.node`, and operators to fork."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from cluster.apiserver import ApiServer
from controlplane.cases import CORE, SYSTEM, Server, admin
from controlplane.chart import CHART, install, rendered, token
from controlplane.node import Node
from controlplane.zygote import Zygote
from vernal_operator.client import Client


def installed(api: ApiServer, chart: Path = CHART) -> Client:
    """The administrator of an API server that is new, on which the chart was installed, but for its Deployment."""
    client = admin(api.kubeconfig)
    system = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": SYSTEM}}
    client.create(CORE["Namespace"], "", system)
    install(client, rendered(helm(api), "vernal", chart=chart))
    return client


def helm(api: ApiServer) -> str:
    return str(Path(api.kubectl).parent / "helm")


@contextmanager
def prepared(api: ApiServer, directory: Path, chart: Path = CHART) -> Iterator[Server]:
    """What tests share on a running API server that is new. Logs and kubeconfigs go to `directory`."""
    client = installed(api, chart)
    with ExitStack() as stack:
        node = Node(client)
        stack.callback(node.close)
        zygote = Zygote()
        stack.callback(zygote.close)
        yield Server(
            client=client,
            url=api.url,
            ca=api.pki / "ca.crt",
            token=token(client, "vernal"),
            zygote=zygote,
            node=node,
            directory=directory,
            helm=helm(api),
        )
