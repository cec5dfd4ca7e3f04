"""The operator of a cluster, by its metrics and its log."""

import re
from collections.abc import Callable

from scenarios.kube import Kube, KubeError

WRITES = ("create", "apply", "patch", "delete")
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

    def writes(self) -> dict[tuple[str, str], float]:
        """Calls to the API server that write, by verb and resource, but for the renewal of its lease."""
        out: dict[tuple[str, str], float] = {}
        for labels, value in self._samples("api_requests"):
            key = labels["verb"], labels["resource"]
            if key[0] in WRITES and key[1] != "leases":
                out[key] = out.get(key, 0.0) + value
        return out

    def errors(self) -> list[str]:
        return [line for line in self._log().splitlines() if re.match(r"\S+ \S+ (ERROR|CRITICAL) ", line)]

    def _samples(self, name: str) -> list[tuple[dict[str, str], float]]:
        found = _SAMPLE.finditer(self._metrics())
        return [(dict(_LABEL.findall(m[2] or "")), float(m[3])) for m in found if m[1] == name]


def installed(kube: Kube, namespace: str) -> Operator:
    """The operator that the chart installed in a namespace. Raises: KubeError."""
    system = kube.elsewhere(namespace)
    pod = _leader(system)
    return Operator(lambda: _scrape(system, pod), lambda: system.run("logs", pod, "--tail=-1"))


def _leader(system: Kube) -> str:
    pods: list[str] = [pod["metadata"]["name"] for pod in system.list("pods", "app.kubernetes.io/name=vernal-operator")]
    for pod in pods:
        if re.search(r"^vernal_operator_leader 1\.0$", _scrape(system, pod), re.MULTILINE):
            return pod
    raise KubeError(f"none of the operators in {system.namespace} leads: {pods}")


def _scrape(system: Kube, pod: str) -> str:
    return system.run("get", "--raw", f"/api/v1/namespaces/{system.namespace}/pods/{pod}:8081/proxy/metrics")
