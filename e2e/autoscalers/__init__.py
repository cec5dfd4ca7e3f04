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

PROGRAMS = Programs(
    name="autoscalers",
    sources=Path(__file__).parent / "go",
    targets={  # called as the images of their projects call them
        "prometheus": ("go.mod", "github.com/prometheus/prometheus/cmd/prometheus"),
        "adapter": ("adapter.mod", "sigs.k8s.io/prometheus-adapter/cmd/adapter"),
        "keda": ("keda.mod", "github.com/kedacore/keda/v2/cmd/operator"),
        "keda-adapter": ("keda.mod", "github.com/kedacore/keda/v2/cmd/adapter"),
    },
    takes="about 15 minutes on 2 cores the first time",
    tags="remove_all_sd,enable_kubernetes_sd",  # Prometheus finds what to scrape in Kubernetes, and in no cloud
)
USER = "65532:65532"  # of KEDA's own images: its pods must not be root


@dataclass(frozen=True)
class Image:
    """The image of all of `PROGRAMS`: its OCI layout, and its name on a cluster."""

    layout: Path
    name: str
    tag: str

    @property
    def reference(self) -> str:
        return f"{self.name}:{self.tag}"


def image() -> Image:
    """The image, built first if the cache has none.

    Raises ToolError or ClusterError if there is no toolchain or no network.
    """
    programs = {name: Path(path) for name, path in PROGRAMS.ensure().items()}
    folder = programs["keda"].parent
    found = Image(folder.with_name(f"{folder.name}.image"), "vernal.local/autoscalers", folder.name)
    if not found.layout.exists():
        with locked(found.layout, "writing the autoscalers' image"), step("writing the autoscalers' image (30 s)"):
            scratch = found.layout.with_suffix(".writing")
            shutil.rmtree(scratch, ignore_errors=True)  # what a killed run left
            scratch.mkdir()
            write_layout(scratch, found.reference, programs, USER)
            shutil.rmtree(found.layout, ignore_errors=True)
            scratch.rename(found.layout)
    return found
