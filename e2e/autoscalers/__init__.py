"""What scales a pool on a real cluster: Prometheus, its adapter, KEDA's operator and metrics server, built from the Go
modules that `go/` pins and put into one image. `python -m autoscalers` lets each take a pool up and down.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

from cluster.images import write_layout
from cluster.programs import Programs
from common.lock import locked
from common.progress import step

_SOURCES = Path(__file__).parent / "go"
# Programs are called as the images of their projects call them.
MONITORING = Programs(
    name="monitoring",
    sources=_SOURCES,
    targets={
        "prometheus": ("go.mod", "github.com/prometheus/prometheus/cmd/prometheus"),
        "adapter": ("adapter.mod", "sigs.k8s.io/prometheus-adapter/cmd/adapter"),
    },
    takes="15 minutes beside others on 2 cores the first time",
    tags="remove_all_sd,enable_kubernetes_sd",  # it finds what to scrape in Kubernetes, and in no cloud
)
KEDA = Programs(
    name="keda",
    sources=_SOURCES,
    targets={
        "keda": ("keda.mod", "github.com/kedacore/keda/v2/cmd/operator"),
        "keda-adapter": ("keda.mod", "github.com/kedacore/keda/v2/cmd/adapter"),
    },
    takes="35 minutes beside others on 2 cores the first time",
    tags="remove_all_sd,enable_kubernetes_sd",
)
USER = "65532:65532"  # of KEDA's own images: its pods must not be root


@dataclass(frozen=True)
class Image:
    """An image of programs: its OCI layout, and its name on a cluster."""

    layout: Path
    name: str
    tag: str

    @property
    def reference(self) -> str:
        return f"{self.name}:{self.tag}"


def image(programs: Programs) -> Image:
    """The image of all of them, built first if the cache has none.

    Raises ToolError or ClusterError if there is no toolchain or no network.
    """
    built = {name: Path(path) for name, path in programs.ensure().items()}
    folder = next(iter(built.values())).parent
    found = Image(folder.with_name(f"{folder.name}.image"), f"vernal.local/{programs.name}", folder.name)
    if not found.layout.exists():
        with locked(found.layout, f"writing {found.reference}"), step(f"writing {found.reference} (30 s)"):
            if not found.layout.exists():
                scratch = found.layout.with_suffix(".writing")
                shutil.rmtree(scratch, ignore_errors=True)  # what a killed run left
                scratch.mkdir()
                write_layout(scratch, found.reference, built, USER)
                scratch.rename(found.layout)
    return found
