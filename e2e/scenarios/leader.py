"""The operator of a cluster, by its metrics and its log."""

import re
import time
from collections.abc import Callable, Mapping

from common.progress import note

from scenarios.kube import Kube, wait

Writes = Mapping[tuple[str, str], float]
WRITES = ("create", "apply", "patch", "delete")
REST_SECONDS, QUIET_SECONDS = 5.0, 20.0
_SAMPLE = re.compile(r"^vernal_operator_(\w+?)(?:_total)?(?:\{(.*)\})? (\S+)$", re.MULTILINE)
_LABEL = re.compile(r'(\w+)="((?:[^"\\]|\\.)*)"')


class Operator:
    """The one that leads.

    Args:
        metrics: its /metrics.
        log: its log so far.
    """

    def __init__(self, metrics: Callable[[], str], log: Callable[[], str]) -> None:
        self._metrics, self._log = metrics, log

    def count(self, name: str, **labels: str) -> float:
        """The sum of a metric (without prefix and suffix) over all samples that have these labels."""
        return sum(value for have, value in self._samples(name) if labels.items() <= have.items())

    def writes(self) -> Writes:
        """Calls to the API server that write, by verb and resource, but for the renewal of its lease."""
        out: dict[tuple[str, str], float] = {}
        for labels, value in self._samples("api_requests"):
            key = labels["verb"], labels["resource"]
            if key[0] in WRITES and key[1] != "leases":
                out[key] = out.get(key, 0.0) + value
        return out

    def written(self, since: Writes) -> Writes:
        """What it has written since it had written that much."""
        now = self.writes()
        return {key: now[key] - since.get(key, 0) for key in now if now[key] != since.get(key, 0)}

    def rested(self) -> Writes:
        """Its writes so far, once it has made none for a while: what went before is over."""

        def rested() -> Writes | None:
            before = self.writes()
            time.sleep(REST_SECONDS)
            return None if self.written(before) else before

        return wait("the operator to rest", rested)

    def quiet(self) -> Writes:
        """What it writes in `QUIET_SECONDS` after it has rested, where nothing is to be written."""
        before = self.rested()
        note(f"{QUIET_SECONDS:.0f} s in which nothing is to be written")
        time.sleep(QUIET_SECONDS)
        return self.written(before)

    def errors(self) -> list[str]:
        return [line for line in self._log().splitlines() if re.match(r"\S+ \S+ (ERROR|CRITICAL) ", line)]

    def _samples(self, name: str) -> list[tuple[dict[str, str], float]]:
        found = _SAMPLE.finditer(self._metrics())
        return [(dict(_LABEL.findall(m[2] or "")), float(m[3])) for m in found if m[1] == name]


def installed(kube: Kube, namespace: str) -> Operator:
    """The operator that the chart installed in a namespace, once it leads. Raises: KubeError, ScenarioTimeoutError."""
    system = kube.elsewhere(namespace)
    pod = wait(f"an operator in {namespace} to lead", lambda: _leader(system))
    return Operator(lambda: _scrape(system, pod), lambda: system.run("logs", pod, "--tail=-1"))


def _leader(system: Kube) -> str | None:
    """Of the pods that stay: one that an upgrade replaces leads until it is gone."""
    for pod in system.list("pods", "app.kubernetes.io/name=vernal-operator"):
        name: str = pod["metadata"]["name"]
        leads = "deletionTimestamp" not in pod["metadata"] and re.search(
            r"^vernal_operator_leader 1\.0$", _scrape(system, name), re.MULTILINE
        )
        if leads:
            return name
    return None


def _scrape(system: Kube, pod: str) -> str:
    return system.run("get", "--raw", f"/api/v1/namespaces/{system.namespace}/pods/{pod}:8081/proxy/metrics")
