"""To zero and back, again and again, with real processes: nothing lost, nothing done twice, whoever is killed.

The API server, the controller of EndpointSlices, the operator, the wakers and the workers' HTTP servers are real; the
node that starts and ends pods is a few lines (`zero.ProcessNode`), and so is the proxy that finds them (`zero.Proxy`).
"""

import itertools
import json
import os
import re
import signal
import socket
import threading
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import yaml
from cluster.apiserver import ApiServer
from common.ports import free_port
from controlplane.cases import CORE, POOL, SYSTEM, Case, Server, admin, condition, kubeconfig, pool
from controlplane.chart import install, rendered, token
from controlplane.collector import Collector, Received
from controlplane.custom_metrics import CustomMetrics
from controlplane.network import PREFIX, own_network
from controlplane.zero import Asker, ProcessNode, Proxy, Tally, Waker, lead_to
from controlplane.zygote import Zygote
from patience import GUARD_SECONDS, until
from vernal_operator.kinds import AUTOSCALERS, PODS, POOLS, SLICES

pytestmark = pytest.mark.apiserver

CYCLES = int(os.environ.get("VERNAL_ZERO_CYCLES", "3"))
BURST = 8
AT_THE_SWITCH = 3
"""Requests of each cycle that are sent the moment that the Service leads elsewhere."""
MORE_BYTES = 8 << 20
"""That a waker may have grown by after many cycles: an allocator's own, and nothing a cycle."""
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


@pytest.fixture(scope="module")
def network() -> Iterator[None]:
    with own_network():
        yield


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("zero")


@pytest.fixture(scope="module")
def world_server(network: None, directory: Path) -> Iterator[tuple[Server, ProcessNode, Path]]:
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


@pytest.fixture(scope="module")
def collector(network: None) -> Iterator[Collector]:
    with Collector() as found:
        yield found


@pytest.fixture(scope="module")
def wakers(world_server: tuple[Server, ProcessNode, Path], collector: Collector) -> Iterator[Wakers]:
    found = Wakers(world_server[0], collector.environment())
    yield found
    found.end()


@pytest.fixture
def world(world_server: tuple[Server, ProcessNode, Path], wakers: Wakers, collector: Collector) -> Iterator[World]:
    server, node, asked = world_server
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


class AtTheSwitch(threading.Thread):
    """Sends a request on a new connection whenever the Service begins to lead elsewhere, a few times a cycle."""

    def __init__(self, world: World) -> None:
        super().__init__(daemon=True)
        self._world, self._left, self._stopped = world, 0, False
        self.failure: BaseException | None = None
        self.start()

    def again(self) -> None:
        self._left = AT_THE_SWITCH

    def stop(self) -> None:
        self._stopped = True
        self.join(GUARD_SECONDS)
        assert self.failure is None, self.failure

    def run(self) -> None:
        try:
            before = self._world.proxy.ready()
            while not self._stopped:
                with self._world.proxy.changed:
                    self._world.proxy.changed.wait(0.1)
                found = self._world.proxy.ready()
                if found != before and self._left:
                    self._left -= 1
                    one = self._world.asker()
                    one.ask()
                    one.close()
                before = found
        except BaseException as error:
            self.failure = error
            raise


def test_cycles_of_zero_burst_zero(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    switch = AtTheSwitch(world)
    keeping = world.asker()  # one connection for all cycles, as long as nobody closes it
    sizes: list[int] = []
    with ThreadPoolExecutor(BURST) as pool_:
        for _ in range(CYCLES):
            world.wait("the pool to be at zero", world.is_asleep)
            switch.again()
            askers = [world.asker() for _ in range(BURST - 1)]
            together = threading.Barrier(BURST)

            def burst(asker: Asker, together: threading.Barrier = together) -> None:
                together.wait(GUARD_SECONDS)
                for _ in range(3):
                    asker.ask()

            for done in [pool_.submit(burst, asker) for asker in (*askers, keeping)]:
                done.result(GUARD_SECONDS)
            world.direct(askers[0])
            for asker in askers:
                asker.close()
            world.check()
            sizes.append(sum(waker.resident for waker in world.wakers))
        world.wait("the pool to be at zero", world.is_asleep)
    switch.stop()
    world.check()
    assert world.tally.answered >= CYCLES * (3 * BURST + 1)
    settled = sizes[min(10, len(sizes) - 1)]
    with capsys.disabled():
        print(
            f"\n{CYCLES} cycles: {world.tally.answered} answered, {len(world.tally.lost)} lost, {len(world.twice())} "
            f"done twice, tried again {dict(world.tally.again)}; wakers {settled >> 10} KiB after the warm-up, "
            f"{sizes[-1] >> 10} KiB at the end"
        )
    assert sizes[-1] - settled <= MORE_BYTES, sizes


def _hold(world: World, count: int, **options: Any) -> tuple[list[threading.Thread], list[Asker]]:
    """Requests that wait at the wakers."""
    world.wait("the pool to be at zero", world.is_asleep)
    world.node.go.clear()
    askers = [world.asker(**options) for _ in range(count)]
    threads = [threading.Thread(target=asker.ask, daemon=True) for asker in askers]
    for thread in threads:
        thread.start()
    world.wait(f"{count} requests to be held", lambda: world.held == count)
    return threads, askers


def _end(world: World, threads: list[threading.Thread]) -> None:
    for thread in threads:
        thread.join(GUARD_SECONDS)
        assert not thread.is_alive()


def test_the_operator_is_killed_while_requests_are_held(world: World) -> None:
    threads, _ = _hold(world, 6)
    world.wait("the pool to be woken", lambda: world.case.get_pool()["spec"]["replicas"] == 1)
    assert world.case.operator is not None
    world.case.operator.kill()
    world.case.wait("it to be dead", lambda: world.case.operator is not None and not world.case.operator.alive)
    world.node.go.set()
    world.case.restart()
    _end(world, threads)
    assert world.tally.answered == 6
    world.direct(world.asker())
    world.check()


def test_workers_serve_and_requests_go_through_without_an_operator(world: World) -> None:
    threads, _ = _hold(world, 2)
    world.wait("its pod", lambda: len(world.case.items(PODS)) == 1)
    assert world.case.operator is not None
    world.case.operator.kill()
    world.node.go.set()
    _end(world, threads)
    one = world.asker()
    for _ in range(10):  # at the wakers and at the worker: the slice still stands
        one.ask()
        one.close()
    assert world.tally.answered == 12 and world.proxy.leads_to_the_waker()
    world.check()


def test_a_waker_is_killed_while_it_holds(world: World) -> None:
    """Its connections break, without an answer: clients try again, and none of what it held had been done."""
    threads, _ = _hold(world, 10, survives=True)
    victim = max(world.wakers, key=lambda waker: waker.held)
    held = victim.held
    victim.end(signal.SIGKILL)
    world.wakers.remove(victim)
    lead_to(world.case.client, SYSTEM, "vernal-waker", [waker.address for waker in world.wakers])
    world.wait(
        "the Service to lead to the other one", lambda: {a for a, _ in world.proxy.ready()} == {world.wakers[0].address}
    )
    world.wait("all to be held there", lambda: world.wakers[0].held == 10)
    world.node.go.set()
    _end(world, threads)
    assert world.tally.answered == 10 and world.tally.again["no answer"] >= held
    world.check()


def test_a_waker_that_is_told_to_go_loses_nothing(world: World) -> None:
    threads, _ = _hold(world, 10)
    leaving = max(world.wakers, key=lambda waker: waker.held)
    lead_to(world.case.client, SYSTEM, "vernal-waker", [w.address for w in world.wakers if w is not leaving])
    ending = threading.Thread(target=leaving.end, daemon=True)
    ending.start()
    world.wait("the Service to lead to the other one", lambda: len(world.proxy.ready()) == 1)
    assert ending.is_alive(), "it holds requests"
    world.node.go.set()
    _end(world, [*threads, ending])
    world.wakers.remove(leaving)
    assert world.tally.answered == 10 and not world.tally.again
    world.check()


def test_the_only_worker_is_killed(world: World, tmp_path: Path) -> None:
    """Whom it was answering is told by a broken answer; everybody else waits for the next one, without noticing."""
    world.wait("the pool to be at zero", world.is_asleep)
    one = world.asker()
    one.ask()
    go = tmp_path / "go"
    before = len(world.asked.read_text().split())
    cut = world.asker()
    thread = threading.Thread(target=cut.ask, args=(go,), daemon=True)
    thread.start()
    world.wait("it to be asked", lambda: len(world.asked.read_text().split()) > before and _in_flight(world) == 1)
    (victim,) = world.case.items(PODS)
    crash = threading.Thread(target=world.node.crash, args=(victim,), daemon=True)
    crash.start()
    _end(world, [thread, crash])
    assert len(world.tally.lost) == 1, "the one whose answer was cut short is told so"
    world.tally.lost.clear()
    world.wait("a worker, or the waker", lambda: bool(world.proxy.ready()))
    later = world.asker(survives=True)
    for _ in range(3):
        later.ask()
    go.touch()
    assert world.tally.answered == 4 and not world.tally.lost and not world.twice()


def _in_flight(world: World) -> int:
    """Of the only worker; 0 while there is none: the pool may have gone to zero in between."""
    pods = world.case.items(PODS)
    if len(pods) == 1 and "podIP" in pods[0].get("status", {}):
        with (
            suppress(OSError),
            urllib.request.urlopen(f"http://{pods[0]['status']['podIP']}:{world.node.port}/state") as answer,
        ):
            return int(json.loads(answer.read())["inFlight"])
    return 0


def test_a_larger_number_is_never_undone(world: World) -> None:
    """A waker that asks for one worker while somebody has asked for three."""
    threads, _ = _hold(world, 4)
    world.wait("the pool to be woken", lambda: world.case.get_pool()["spec"]["replicas"] == 1)
    world.case.client.patch(POOLS, world.case.namespace, POOL, {"spec": {"replicas": 3}}, "scale")
    awake = 'vernal_waker_scale_requests_total{result="awake"}'
    before = sum(waker.metric(awake) for waker in world.wakers)
    world.wait("to be asked again", lambda: sum(waker.metric(awake) for waker in world.wakers) >= before + 2)
    assert world.case.get_pool()["spec"]["replicas"] == 3
    world.node.go.set()
    _end(world, threads)
    world.check()


PHASES = ["operator", "schedule", "kubelet", "worker", "endpoint"]
TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
"""Of the example in W3C Trace Context."""


def _told(text: str, event: str, pool_: str) -> dict[str, float]:
    """The seconds of the last line of an event in a log."""
    line = [line for line in text.splitlines() if f"event={event} pool={pool_} " in line][-1]
    return {name: float(value) for name, value in re.findall(r"([\w/]+)=(\d+\.\d{3})\b", line)}


def _children(of: Received, spans: list[Received]) -> list[Received]:
    found = [span for span in spans if span.parent == of.id]
    for span in found:
        assert span.trace == of.trace and of.begin <= span.begin <= span.end
    return found


def test_a_start_from_zero_is_one_trace(world: World, collector: Collector, tmp_path: Path) -> None:
    """From the client's own span over the waker's to the operator's, and on to the worker."""
    world.wait("the pool to be at zero", world.is_asleep)
    one, go = world.asker(), tmp_path / "go"  # without which the pool is not idle
    patient = {"spec": {"autoscaling": {"idleSeconds": 5}}}  # a worker is found before it counts as idle
    world.case.client.patch(POOLS, world.case.namespace, POOL, patient)
    one.headers["traceparent"] = f"00-{TRACE}-{PARENT}-01"
    one.headers["tracestate"] = "vendor=1"
    thread = threading.Thread(target=one.ask, args=(go,), daemon=True)
    thread.start()

    def mine() -> list[Received]:
        return [s for s in collector.spans if s.attributes.get("k8s.namespace.name") == world.case.namespace]

    world.wait("its spans", lambda: {"wake", "start"} <= {span.name for span in mine()})
    spans = mine()
    (wake,) = [span for span in spans if span.name == "wake"]
    (start,) = [span for span in spans if span.name == "start"]
    assert {span.trace for span in spans} == {TRACE}, "one trace"
    assert (wake.service, start.service) == ("vernal-waker", "vernal-operator")
    assert (wake.parent, start.parent) == (PARENT, wake.id)
    assert [span.name for span in _children(wake, spans)] == ["held", "start", "first_byte"]
    phases = _children(start, spans)
    assert [span.name for span in phases] == PHASES
    assert all(span.end <= start.end for span in phases)
    (pod,) = world.case.items(PODS)
    known = {
        "k8s.namespace.name": world.case.namespace, "k8s.pod.name": pod["metadata"]["name"],
        "k8s.pod.uid": pod["metadata"]["uid"], "k8s.node.name": "node", "vernal.pool.name": POOL,
        "vernal.start.mode": "Cold",
    }  # fmt: skip
    for span in (start, *phases):
        assert known.items() <= span.attributes.items() and len(span.attributes["vernal.checkpoint.identity"]) == 64
    name = f"{world.case.namespace}/{POOL}"
    lines = _told(world.case.log.read_text(), "start", name)
    assert {**{span.name: span.seconds for span in phases}, "total": start.seconds} == pytest.approx(
        {name: seconds for name, seconds in lines.items() if "/" not in name}, abs=0.002
    )
    logs = "".join(file.read_text() for file in world.case.server.directory.glob("waker-*.log"))
    told, (held, _, first_byte) = _told(logs, "wake", name), _children(wake, spans)
    (scale,) = _children(held, spans)
    seconds = [scale.seconds, held.seconds, held.seconds + first_byte.seconds]
    assert seconds == pytest.approx([told["asked"], told["endpoint"], told["first_byte"]], abs=0.002)

    world.case.client.patch(POOLS, world.case.namespace, POOL, {"spec": {"replicas": 2}}, "scale")
    world.wait("another start", lambda: len([span for span in mine() if span.name == "start"]) == 2)
    (other,) = [span for span in mine() if span.name == "start" and span.id != start.id]
    assert other.parent == "" and other.trace != TRACE, "somebody else has asked for this one"
    assert [span.name for span in _children(other, mine())] == PHASES
    assert other.attributes["vernal.start.mode"] == "Restored"
    go.touch()
    _end(world, [thread])
    assert world.tally.answered == 1 and one.answered_with is not None
    seen = one.answered_with["x-seen-traceparent"], one.answered_with["x-seen-tracestate"]
    assert seen == (f"00-{TRACE}-{wake.id}-01", "vendor=1")

    def have(names: Counter[str]) -> bool:
        return names <= Counter(span.name for span in mine())

    for later in (1, 2):  # Kubernetes treats the first write to `replicas` in another way than those that follow
        world.wait("the pool to be at zero", world.is_asleep)
        before = {span.trace for span in mine()}
        world.asker().ask()
        names = Counter({"wake": 1 + later, "start": 2 + later})
        world.wait("another wake and its start", partial(have, names))
        new = [span for span in mine() if span.trace not in before]
        assert len({span.trace for span in new}) == 1, "one trace"
        (root,) = [span for span in new if not span.parent]
        assert (root.name, root.service) == ("wake", "vernal-waker")
        assert [span.name for span in _children(root, new)] == ["held", "start", "first_byte"]
        (start,) = [span for span in new if span.name == "start"]
        assert [span.name for span in _children(start, new)] == PHASES
    world.wait("the pool to be at zero", world.is_asleep)
    assert Counter(span.name for span in mine() if span.name in ("wake", "start")) == names, "and no other"
    world.check()


def test_a_real_hpa_follows_the_pools_pressure_and_leaves_zero_alone(world: World, tmp_path: Path) -> None:
    """From a worker's load to the operator's metric, the custom metrics API, the HPA, /scale, and back to zero."""
    metrics = CustomMetrics(world.case.client, world.case.namespace, world.case.server.ca.parent, world.metrics_port)
    go = tmp_path / "go"
    askers = [world.asker() for _ in range(16)]  # a worker of `workers` has room for 8
    threads = [threading.Thread(target=asker.ask, args=(go,), daemon=True) for asker in askers]
    for thread in threads:
        thread.start()

    def ready() -> int:
        return sum(condition(pod, "Ready") == "True" for pod in world.case.items(PODS))

    world.wait("three workers", lambda: world.case.get_pool()["spec"]["replicas"] == 3 and ready() == 3)
    assert metrics.asked > 0
    go.touch()
    _end(world, threads)
    world.wait("the pool to be at zero", world.is_asleep)
    world.wait("the HPA to stand aside", lambda: _scaling_active(world) == "ScalingDisabled")
    assert world.tally.answered == 16
    world.check()
    metrics.close()


def _scaling_active(world: World) -> str:
    (found,) = world.case.items(AUTOSCALERS)
    reasons = [c["reason"] for c in found["status"].get("conditions", []) if c["type"] == "ScalingActive"]
    return str(reasons[0]) if reasons else ""
