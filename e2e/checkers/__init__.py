"""Programs that check what users install: built from Go modules that `go/` pins, once for each content of that folder.

helm-docs, kubeconform and promtool are for the chart (go.mod), actionlint is for the workflow files (workflows.mod: it
needs another version of a module that the others share). monitoring.mod is the Prometheus operator, of which only the
CRDs are used.
"""

from __future__ import annotations

import json
from pathlib import Path

from cluster import command
from cluster.build import environment
from cluster.programs import Programs
from common.tools import ToolError

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


def monitoring_crds() -> list[Path]:
    """The CRDs of PodMonitor and PrometheusRule, as the Prometheus operator publishes them.

    Raises ToolError if there is no network.
    """
    sources = str(PROGRAMS.sources)
    download = [PROGRAMS.toolchain(), "-C", sources, "mod", "download", "-modfile=monitoring.mod", "-json", MONITORING]
    done = command.run(download, env=environment())
    if done.returncode:
        raise ToolError(
            f"{' '.join(download)} failed: {done.stdout}{done.stderr}Check the network and `go env GOPROXY`."
        )
    folder = Path(json.loads(done.stdout)["Dir"]) / "example" / "prometheus-operator-crd"
    return [folder / f"monitoring.coreos.com_{kind}.yaml" for kind in ("podmonitors", "prometheusrules")]


def ensure() -> dict[str, str]:
    """The paths of the programs by name, built first if the cache has none: 6 min beside others on 2 cores.

    Raises ToolError or ClusterError if there is no toolchain or no network.
    """
    return PROGRAMS.ensure()
