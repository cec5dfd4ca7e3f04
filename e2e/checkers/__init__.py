"""Programs that check what users install: built from Go modules that `go/` pins, once for each content of that folder.

helm-docs, kubeconform and promtool are for the chart (go.mod), actionlint is for the workflow files (workflows.mod: it
needs another version of a module that the others share). monitoring.mod is the Prometheus operator, neighbours.mod what
examples are for: of these only CRDs and texts are used.
"""

from __future__ import annotations

from pathlib import Path

from cluster.programs import Programs

PROGRAMS = Programs(
    name="checkers",
    sources=Path(__file__).parent / "go",
    targets={
        "helm-docs": ("go.mod", "github.com/norwoodj/helm-docs/cmd/helm-docs"),
        "kubeconform": ("go.mod", "github.com/yannh/kubeconform/cmd/kubeconform"),
        "promtool": ("go.mod", "github.com/prometheus/prometheus/cmd/promtool"),
        "actionlint": ("workflows.mod", "github.com/rhysd/actionlint/cmd/actionlint"),
    },
    takes="about 6 minutes on 2 cores the first time",
    tags="remove_all_sd",  # promtool without the clients of every cloud, which only find what to scrape
)


MONITORING = "github.com/prometheus-operator/prometheus-operator"
NEIGHBOURS = {
    "inference": ("sigs.k8s.io/gateway-api-inference-extension", "config/crd/bases"),
    "gateway": ("sigs.k8s.io/gateway-api", "config/crd/standard"),
    "keda": ("github.com/kedacore/keda/v2", "config/crd/bases"),
    "kueue": ("sigs.k8s.io/kueue", "config/components/crd/bases"),
}
"""What runs beside Vernal: its module, and where that has its CRDs."""


def monitoring_crds() -> list[Path]:
    """The CRDs of PodMonitor and PrometheusRule, as the Prometheus operator publishes them.

    Raises ToolError if there is no network.
    """
    folder = PROGRAMS.module("monitoring.mod", MONITORING) / "example" / "prometheus-operator-crd"
    return [folder / f"monitoring.coreos.com_{kind}.yaml" for kind in ("podmonitors", "prometheusrules")]


def neighbour(name: str) -> Path:
    """The sources of one of `NEIGHBOURS`. Raises ToolError if there is no network."""
    return PROGRAMS.module("neighbours.mod", NEIGHBOURS[name][0])


def neighbours_crds(name: str, *plurals: str) -> list[Path]:
    """Those of its CRDs that are called so. Raises ToolError if there is no network."""
    folder = neighbour(name) / NEIGHBOURS[name][1]
    return [path for plural in plurals for path in sorted(folder.glob(f"*_{plural}.yaml"))]


def ensure() -> dict[str, str]:
    """The paths of the programs by name, built first if the cache has none: 6 min beside others on 2 cores.

    Raises ToolError or ClusterError if there is no toolchain or no network.
    """
    return PROGRAMS.ensure()
