"""KEDA on a cluster, as its own manifests install it, without the admission webhooks."""

from collections.abc import Iterator
from contextlib import contextmanager

from scenarios import setup
from scenarios.kube import Kube

from autoscalers import KEDA, Image
from autoscalers.stack import deployed

MODULE = "github.com/kedacore/keda/v2"
NAMESPACE = "keda"  # in its manifests
EXAMPLE = setup.ROOT / "docs" / "examples" / "keda.yaml"


@contextmanager
def keda(kube: Kube, image: Image, prometheus: str) -> Iterator[None]:
    """KEDA's operator and metrics server; for them `prometheus.monitoring` is at that address."""
    kube = kube.elsewhere(NAMESPACE)
    config = KEDA.module("keda.mod", MODULE) / "config"
    first = (config / "general" / "namespace.yaml", config / "manager" / "service.yaml")
    kube.run("apply", "--server-side", "--force-conflicts", *(f"--filename={path}" for path in first))
    service = kube.get("service", "keda-operator")
    assert service is not None
    hosts = {
        "prometheus.monitoring": prometheus,
        f"keda-operator.{NAMESPACE}.svc.cluster.local": str(service["spec"]["clusterIP"]),
    }
    images = {f"ghcr.io/kedacore/{name}": image for name in ("keda", "keda-metrics-apiserver")}
    with deployed(kube, [config / "minimal"], images, hosts=hosts):
        yield
