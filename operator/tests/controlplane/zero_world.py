"""A pool that may go to zero, with an API server of its own: Kubernetes' controllers of EndpointSlices and HPAs, the
operator, two wakers and the workers' HTTP servers are real.

The node that starts and ends pods is a few lines (`zero.ProcessNode`), and so is the proxy that finds them
(`zero.Proxy`).
"""

import itertools
import json
import signal
import socket
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import yaml
from cluster.apiserver import ApiServer
from common.ports import free_port
from controlplane.cases import CORE, POOL, SYSTEM, Case, Server, admin, kubeconfig, pool
from controlplane.chart import install, rendered, token
from controlplane.collector import Collector
from controlplane.network import PREFIX
from controlplane.zero import Asker, ProcessNode, Proxy, Tally, Waker, lead_to
from controlplane.zygote import Zygote
from patience import GUARD_SECONDS, until
from vernal_operator.kinds import PODS, SLICES

SCALED = {"minReplicas": 0, "maxReplicas": 3, "idleSeconds": 1}
WAKERS = [f"{PREFIX}.254.1", f"{PREFIX}.254.2"]


class World:
    """A pool that may go to zero, two wakers, and clients."""

    def __init__(self, case: Case, node: ProcessNode, wakers: list[Waker], asked: Path, metrics_port: int) -> None:
        self.case, self.node, self.wakers, self.asked, self.metrics_port = case, node, wakers, asked, metrics_port
        self.proxy = Proxy(case.client, case.namespace, POOL)
        self.tally = Tally()

    def asker(self, **options: Any) -> Asker:
        return Asker(self.proxy, self.tally, **options)

    def wait(self, what: str, probe: Callable[[], bool]) -> None:
        until(what, probe, more=self._more)

    def _more(self) -> str:
        slices = {s["metadata"]["name"]: s.get("endpoints") for s in self.case.items(SLICES)}
        found = [yaml.dump(self.case.get_pool()["status"]), json.dumps(slices), str(self.proxy.ready())]
        found += [f"{waker.address} holds {waker.held}" for waker in self.wakers]
        return "\n".join([*found, self.case.log.read_text()[-3000:]])

    def is_asleep(self) -> bool:
        return (
            self.case.get_pool()["spec"]["replicas"] == 0
            and not self.case.items(PODS)
            and self.proxy.leads_to_the_waker()
        )

    def direct(self, asker: Asker) -> None:
        """The waker gets out of the way, while somebody needs the pool: else it would go to zero again."""

        def probe() -> bool:
            asker.ask()
            return self.proxy.leads_to_workers_only()

        self.wait("the waker to be out of the way", probe)

    def check(self) -> None:
        """Nothing was lost, and nothing done twice."""
        assert not self.tally.lost, self.tally.lost[:5]
        assert not self.twice(), self.twice()
        assert self.proxy.nowhere == 0, "the Service led nowhere"

    def twice(self) -> list[str]:
        counts = Counter(self.asked.read_text().split())
        return [identity for identity, times in counts.items() if times > 1]

    @property
    def held(self) -> float:
        return sum(waker.held for waker in self.wakers)


@contextmanager
def prepared(directory: Path) -> Iterator[tuple[Server, ProcessNode, Path]]:
    """What the worlds of a module share: a server, its node, and the file of what workers were asked."""
    with ExitStack() as stack:
        api = stack.enter_context(ApiServer())
        client = admin(api.kubeconfig)
        helm = str(Path(api.kubectl).parent / "helm")
        client.create(CORE["Namespace"], "", {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": SYSTEM}})
        install(client, rendered(helm, "vernal", "waker.enabled=true"))
        asked = directory / "asked"
        asked.touch()
        node = ProcessNode(client, asked)
        stack.callback(node.close)
        zygote = Zygote()
        stack.callback(zygote.close)
        stack.callback(Controllers(api).end)
        yield (
            Server(
                client=client, url=api.url, ca=api.pki / "ca.crt", token=token(client, "vernal"), zygote=zygote,
                node=node, directory=directory, helm=helm,
            ),
            node,
            asked,
        )  # fmt: skip


class Controllers:
    """Kubernetes' own controllers of EndpointSlices and of HPAs, and no other."""

    def __init__(self, api: ApiServer) -> None:
        self._api = api
        api._processes.ensure(
            "kube-controller-manager",
            [
                api._binaries["kube-controller-manager"], f"--kubeconfig={api.kubeconfig}", "--leader-elect=false",
                f"--authentication-kubeconfig={api.kubeconfig}", f"--authorization-kubeconfig={api.kubeconfig}",
                "--controllers=endpointslice-controller,horizontal-pod-autoscaler-controller",
                "--horizontal-pod-autoscaler-sync-period=1s", "--bind-address=127.0.0.1", "--profiling=false",
            ],
        )  # fmt: skip

    def end(self) -> None:
        self._api._processes.kill("kube-controller-manager")


_numbers = itertools.count(1)


class Wakers:
    """Two of them, started again where a test has ended one."""

    def __init__(self, server: Server, env: Mapping[str, str]) -> None:
        self._server, self._found, self._env = server, dict[str, Waker](), env
        self._kubeconfig = server.directory / "waker.kubeconfig"
        told = kubeconfig(server.url, token(server.client, "vernal-waker"))
        told["clusters"][0]["cluster"]["certificate-authority"] = str(server.ca)
        self._kubeconfig.write_text(yaml.dump(told))

    def both(self) -> list[Waker]:
        for address in WAKERS:
            if address not in self._found or not self._found[address].alive:
                log = self._server.directory / f"waker-{address}.log"
                self._found[address] = Waker(address, self._kubeconfig, log, self._env)
        for waker in self._found.values():
            waker.wait_ready()
        lead_to(self._server.client, SYSTEM, "vernal-waker", WAKERS)
        return list(self._found.values())

    def end(self) -> None:
        for waker in self._found.values():
            if waker.alive:
                waker.end(signal.SIGKILL)


@contextmanager
def at_zero(server: Server, node: ProcessNode, asked: Path, wakers: Wakers, collector: Collector) -> Iterator[World]:
    """A world in a namespace of its own, with a pool that is at zero."""
    with ExitStack() as stack:
        namespace = f"zero-{next(_numbers)}"
        port = free_port()
        options = (f"--waker={SYSTEM}/vernal-waker", f"--metrics-port={port}")
        case = stack.enter_context(Case(server, namespace, *options, env=collector.environment()))
        found = World(case, node, wakers.both(), asked, port)
        stack.callback(found.proxy.stop)
        stack.callback(node.go.set)
        case.start()
        case.create(pool(replicas=0, autoscaling=SCALED))
        found.wait("the Service to lead to the wakers", lambda: len(found.proxy.ready()) == 2)
        found.wait("the wakers to listen", lambda: all(map(_listens, found.proxy.ready())))
        yield found
        case.delete_pool()


def _listens(place: tuple[str, int]) -> bool:
    try:
        socket.create_connection(place, GUARD_SECONDS).close()
    except OSError:
        return False
    return True


def end(world: World, threads: list[threading.Thread]) -> None:
    for thread in threads:
        thread.join(GUARD_SECONDS)
        assert not thread.is_alive()
