"""Programs that check what users install: built from Go modules that `go/` pins, once for each content of that folder.

helm-docs, kubeconform and promtool are for the chart (go.mod), actionlint is for the workflow files (workflows.mod: it
needs another version of a module that the others share). monitoring.mod is the Prometheus operator, neighbours.mod what
examples are for: of these only CRDs and texts are used.
"""

from __future__ import annotations

import hashlib
import json
import platform
import re
import shutil
from pathlib import Path

from cluster import command
from cluster.build import environment, go_version_of, minimum_go, toolchain
from common.cache import cache_dir
from common.lock import locked
from common.progress import step
from common.tools import ToolError, run

SOURCES = Path(__file__).parent / "go"
PROGRAMS = {
    "helm-docs": ("go.mod", "github.com/norwoodj/helm-docs/cmd/helm-docs"),
    "kubeconform": ("go.mod", "github.com/yannh/kubeconform/cmd/kubeconform"),
    "promtool": ("go.mod", "github.com/prometheus/prometheus/cmd/promtool"),
    "actionlint": ("workflows.mod", "github.com/rhysd/actionlint/cmd/actionlint"),
}
#: promtool without the clients of every cloud, which only find what to scrape.
TAGS = "remove_all_sd"


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
    folder = module("monitoring.mod", MONITORING) / "example" / "prometheus-operator-crd"
    return [folder / f"monitoring.coreos.com_{kind}.yaml" for kind in ("podmonitors", "prometheusrules")]


def neighbour(name: str) -> Path:
    """The sources of one of `NEIGHBOURS`. Raises ToolError if there is no network."""
    return module("neighbours.mod", NEIGHBOURS[name][0])


def neighbours_crds(name: str, *plurals: str) -> list[Path]:
    """Those of its CRDs that are called so. Raises ToolError if there is no network."""
    folder = neighbour(name) / NEIGHBOURS[name][1]
    return [path for plural in plurals for path in sorted(folder.glob(f"*_{plural}.yaml"))]


def module(pins: str, name: str) -> Path:
    """The folder of a Go module's sources, at the version that a file of `go/` pins; nothing is built.

    Raises ToolError if there is no network.
    """
    version = re.search(rf"{re.escape(name)} (v\S+)", (SOURCES / pins).read_text())
    assert version is not None, f"{pins} does not name {name}"
    go = toolchain(_minimum())
    download = [go, "-C", str(SOURCES), "mod", "download", f"-modfile={pins}", "-json", f"{name}@{version[1]}"]
    done = command.run(download, env=environment())
    if done.returncode:
        raise ToolError(
            f"{' '.join(download)} failed: {done.stdout}{done.stderr}Check the network and `go env GOPROXY`."
        )
    return Path(json.loads(done.stdout)["Dir"])


def _minimum() -> tuple[int, ...]:
    return minimum_go((SOURCES / "go.mod").read_text())


def ensure() -> dict[str, str]:
    """The paths of the programs by name, built first if the cache has none: 6 min beside others on 2 cores.

    Raises ToolError if there is no toolchain or no network.
    """
    go = toolchain(_minimum())
    state = hashlib.sha256(f"{go_version_of(go)} {platform.machine()} {TAGS} {sorted(PROGRAMS.items())}".encode())
    for mod in sorted({mod for mod, _ in PROGRAMS.values()}):
        for path in (SOURCES / mod, (SOURCES / mod).with_suffix(".sum")):
            state.update(f"\0{path.name}\0".encode() + path.read_bytes())
    directory = cache_dir() / "checkers" / state.hexdigest()[:16]
    if not directory.exists():
        with locked(directory, "building what checks the chart"):
            if not directory.exists():
                _build(go, directory)
    return {name: str(directory / name) for name in PROGRAMS}


def _build(go: str, directory: Path) -> None:
    scratch = directory.with_name(directory.name + ".building")
    shutil.rmtree(scratch, ignore_errors=True)  # what a killed run left
    scratch.mkdir()
    with step(f"compiling {', '.join(PROGRAMS)} (about 6 minutes on 2 cores the first time)"):
        for name, (mod, package) in PROGRAMS.items():
            run(
                ["nice", "-n", "5", go, "-C", str(SOURCES), "build", "-mod=readonly", f"-modfile={mod}", "-trimpath",
                 f"-tags={TAGS}", "-buildvcs=false", "-ldflags=-s -w", "-o", str(scratch / name), package],
                "Check the network and `go env GOPROXY`.",
                environment(),
            )  # fmt: skip
    scratch.rename(directory)
