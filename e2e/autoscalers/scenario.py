"""A pool follows its load on the embedded cluster: from one worker to three by the metric, back to one, to zero, and
from zero when requests come again. Once by its own HPA, once by KEDA.
"""

import json
import re
import time
import urllib.parse
import urllib.request
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from common.progress import duration, say, step
from patience import GUARD_SECONDS
from scenarios import manifests, setup
from scenarios.kube import Kube, KubeError, Object, is_true, wait
from scenarios.report import Report
from scenarios.watch import Watch

from autoscalers import KEDA, MONITORING, image
from autoscalers.keda import EXAMPLE, keda
from autoscalers.load import Answers, Load
from autoscalers.monitoring import adapter, monitoring

NAMESPACE, POOL = "ml", "qwen"  # those of docs/examples/keda.yaml
WAKER = "waker.enabled=true"
MOST = 3
LIGHT = 2
CLIENTS = 18
"""Requests at once: 2.25 times what a worker holds (`manifests.ENGINE_ARGS`), so three of them at a target of 0.8."""
BURST = 10
IDLE_SECONDS = 240
"""Longer than the HPA takes from three to one, so that both are seen."""
COOLDOWN_SECONDS = 30


@dataclass(frozen=True)
class Autoscaler:
    """Its name for people, its HorizontalPodAutoscaler, the pool's `spec.autoscaling`, and what is applied beside."""

    name: str
    hpa: str
    spec: Object
    example: Path | None = None


OWN_HPA = Autoscaler("HPA", POOL, {"minReplicas": 0, "maxReplicas": MOST, "idleSeconds": IDLE_SECONDS})
BY_KEDA = Autoscaler("KEDA", f"keda-hpa-{POOL}", {"autoscaler": "External", "minReplicas": 0}, EXAMPLE)


class Following:
    """One run with an autoscaler; adds to the report what was seen."""

    def __init__(self, kube: Kube, base: str, watch: Watch, report: Report, autoscaler: Autoscaler) -> None:
        self.kube, self.watch, self.report, self.autoscaler = kube, watch, report, autoscaler
        self._proxy, self._began, self._base = base, time.monotonic(), ""
        self._seen: list[str] = []

    def run(self, worker: str) -> None:
        name = self.autoscaler.name
        with step(f"{name}: the first worker starts cold and freezes (1 min)"):
            self._first(worker)
        try:
            with step(f"{name}: {LIGHT} streams at once, then {CLIENTS}, until {MOST} workers have some (3 min)"):
                self._up()
            with step(f"{name}: nobody asks: back to one, and to zero (6 min)"):
                self._down()
            with step(f"{name}: {BURST} streams at once against zero (1 min)"):
                self._from_zero()
        finally:
            if self.autoscaler.example:  # or it makes workers while the namespace goes
                self.kube.run("delete", "--ignore-not-found", "-f", str(self.autoscaler.example))

    def _first(self, worker: str) -> None:
        pool = manifests.pool(worker, replicas=1)
        pool["metadata"]["name"] = POOL
        del pool["spec"]["replicas"]
        pool["spec"]["autoscaling"] = self.autoscaler.spec
        self.kube.apply(pool)
        self.watch.until("the first worker", lambda: len(self.watch.ready()) == 1)
        wait("the checkpoint", lambda: is_true(self.kube.get("vwp", POOL), "CheckpointReady"))
        service = self.kube.get("service", POOL)
        assert service is not None
        self._base = f"http://{service['spec']['clusterIP']}:8000"

    def _up(self) -> None:
        first = {pod["metadata"]["name"] for pod in self.watch.ready()}
        self._begin()
        with self._load(LIGHT) as light:
            # KEDA takes a worker away as long as it has never seen its trigger active.
            self._until("its pressure in Prometheus", self._pressed, light)
            if self.autoscaler.example:
                self.kube.run("apply", "-f", str(self.autoscaler.example))
            self._until("the HPA has it", self._active, light)
            self._check(f"{LIGHT} streams at once are for one worker", self._wish() == 1 == len(self.watch.staying()))
            self._note("one worker, seconds since the first request")
            self._begin()
            with self._load(CLIENTS - LIGHT) as more:
                self._until(f"{MOST} wished for", lambda: self._wish() >= MOST, light, more)
                for count in range(2, MOST + 1):
                    self._until(f"{count} ready", partial(self._ready, count), light, more)
                self._until("all in use", self._all_in_use, light, more)
                wish, staying = self._wish(), len(self.watch.staying())
                self._check(f"it asks for {MOST} workers and no more", wish == staying == MOST)
                answers = light.stop() + more.stop()
            self._mark("all answered")
        self._note(f"up, seconds since there were {CLIENTS}")
        new = sorted({pod["metadata"]["name"] for pod in self.watch.ready()} - first)
        modes = [self._state(name).get("startMode") for name in new]
        self._check(f"the workers that it added thawed ({modes})", modes == ["Restored"] * (MOST - 1))
        self._judge("on the way from 1 to 3", answers)

    def _down(self) -> None:
        self._begin()
        self._until("1 left", lambda: len(self.watch.staying()) == 1)
        self._check("it asks for one", self._wish() == 1)
        if self.autoscaler.example:  # ten minutes in it, of which all but the first are alike
            patch = json.dumps({"spec": {"cooldownPeriod": COOLDOWN_SECONDS}})
            self.kube.run("patch", "scaledobject", POOL, "--type=merge", f"--patch={patch}")
        self._until("0 left", lambda: not self.watch.staying())
        self._until("gone", lambda: not self.watch.pods)
        self._note("down, seconds since the last answer")

    def _from_zero(self) -> None:
        self._begin()
        with self._load(BURST) as load:
            self._until("1 ready", partial(self._ready, 1), load)
            answers = load.stop()
        self._mark("all answered")
        self._note("from zero, seconds since the first request")
        self._judge("from zero", answers)

    def _load(self, clients: int) -> Load:
        return Load(self._base, manifests.MODEL_NAME, clients)

    def _ready(self, count: int) -> bool:
        return len(self.watch.ready()) >= count

    def _pressed(self) -> bool:
        query = urllib.parse.quote(f'vernal_pool_pressure{{namespace="{NAMESPACE}",pool="{POOL}"}} > 0')
        path = f"api/v1/namespaces/monitoring/services/prometheus:web/proxy/api/v1/query?query={query}"
        return bool(self._get(path)["data"]["result"])

    def _active(self) -> bool:
        return is_true(self.kube.get("hpa", self.autoscaler.hpa), "ScalingActive")

    def _begin(self) -> None:
        self._began, self._seen = time.monotonic(), []

    def _mark(self, what: str) -> None:
        self._seen.append(f"{what} {time.monotonic() - self._began:.1f}")
        say(f"  {self._seen[-1]}")

    def _note(self, what: str) -> None:
        self.report.note(f"{self.autoscaler.name}: {what}: {', '.join(self._seen)}")

    def _until(self, what: str, condition: Callable[[], bool], *loads: Load) -> None:
        wait(
            f"{what}, by {self.autoscaler.name}", lambda: all(load.alive() for load in loads) and condition(), every=0.2
        )
        self._mark(what)

    def _wish(self) -> int:
        path = f"apis/autoscaling/v2/namespaces/{NAMESPACE}/horizontalpodautoscalers/{self.autoscaler.hpa}"
        return int(self._get(path)["status"].get("desiredReplicas", 0))

    def _all_in_use(self) -> bool:
        """Whether each worker has requests in flight."""
        return all(self._in_flight(pod["metadata"]["name"]) > 0 for pod in self.watch.ready())

    def _in_flight(self, pod: str) -> float:
        found = re.search(r"^vernal_worker_requests_in_flight (\S+)$", self._admin(pod, "metrics"), re.M)
        return float(found[1]) if found else 0.0

    def _state(self, pod: str) -> Object:
        state: Object = json.loads(self._admin(pod, "state"))
        return state

    def _admin(self, pod: str, path: str) -> str:
        return self._read(f"api/v1/namespaces/{NAMESPACE}/pods/{pod}:9100/proxy/{path}")

    def _get(self, path: str) -> Object:
        found: Object = json.loads(self._read(path))
        return found

    def _read(self, path: str) -> str:
        try:
            with urllib.request.urlopen(f"{self._proxy}/{path}", timeout=GUARD_SECONDS) as response:
                return str(response.read().decode())
        except OSError as error:
            raise KubeError(f"asking for {path} through kubectl proxy: {error}") from error

    def _judge(self, when: str, answers: Answers) -> None:
        self._check(
            f"{answers.whole} of {answers.asked} streams were answered {when}: {answers.lost.total()} lost "
            f"{dict(answers.lost) or ''}".rstrip(),
            answers.whole > 0 and not answers.lost,
        )
        self._check("the same answer from every worker", answers.alike)

    def _check(self, text: str, held: bool) -> None:
        self.report.check(f"{self.autoscaler.name}: {text}", held)


def run(autoscalers: Sequence[str]) -> Report:
    """Those of `hpa` and `keda`, one after the other. Raises KubeError, ScenarioTimeoutError."""
    if not setup.embedded():
        raise KubeError("requests go to the Service's address, and KEDA's to names that only its pods have: "
                        "it needs the embedded cluster (unset KUBECONFIG)")  # fmt: skip
    start, report = time.monotonic(), Report()
    programs = {"monitoring": MONITORING} | ({"keda": KEDA} if "keda" in autoscalers else {})
    built = {name: image(each) for name, each in programs.items()}
    images = setup.cluster_with_images()
    for each in built.values():
        setup.load_image(each.layout)
    setup.install(images, WAKER)
    system = Kube(setup.KUBECTL, setup.SYSTEM_NAMESPACE)
    with monitoring(system, built["monitoring"], images, WAKER) as prometheus:
        if "hpa" in autoscalers:
            with adapter(system, built["monitoring"], prometheus):
                _follow(images, report, OWN_HPA)
        if "keda" in autoscalers:
            with keda(system, built["keda"], prometheus):
                _follow(images, report, BY_KEDA)
    for line in _stories(system, time.monotonic() - start):
        report.note(line)
    say(f"done in {duration(time.monotonic() - start)}")
    return report


def _follow(images: setup.Images, report: Report, autoscaler: Autoscaler) -> None:
    with (
        setup.namespace(NAMESPACE) as kube,
        kube.proxy() as base,
        Watch(kube, f"vernal.dev/pool={POOL}") as watch,
    ):
        setup.prepare_model(kube, images)
        Following(kube, base, watch, report, autoscaler).run(images.worker)


def _stories(system: Kube, seconds: float) -> list[str]:
    """Where the seconds of starts went, by the operator's and the wakers' own words of the last `seconds`."""
    logs = [
        system.run("logs", "--selector", f"app.kubernetes.io/name={name}", "--tail=-1", f"--since={seconds:.0f}s")
        for name in ("vernal-operator", "vernal-waker")
    ]
    return re.findall(rf"event=(?:start|wake) pool={NAMESPACE}/{POOL} [^\"]*", "\n".join(logs))
