"""Prometheus and its adapter on a cluster: what they are told is made from what Vernal gives to users, the chart's
PodMonitors and the example of the adapter's rules.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml
from scenarios import setup
from scenarios.kube import Kube, Object

from autoscalers import Image
from autoscalers.stack import deployed

MANIFESTS = Path(__file__).parent / "manifests"
RULES = setup.ROOT / "docs" / "examples" / "prometheus-adapter.yaml"
NAMESPACE = "monitoring"
SCRAPE = ("podMonitor.enabled=true", "podMonitor.interval=5s")
"""Values of the chart. Every 5 s, because KEDA sees what the waker holds only after a scrape."""


@contextmanager
def monitoring(kube: Kube, image: Image, images: setup.Images, *values: str) -> Iterator[str]:
    """Prometheus, which scrapes what the chart with `values` says; yields the address of its Service."""
    monitors = [found for found in yaml.safe_load_all(setup.rendered(images, *values, *SCRAPE)) if found]
    kube = kube.elsewhere(NAMESPACE)
    kube.run("apply", "--server-side", "--force-conflicts", "-f", str(MANIFESTS / "service.yaml"))
    service = kube.get("service", "prometheus")
    assert service is not None
    config = {"prometheus.yml": yaml.safe_dump(configuration(monitors))}
    try:
        with deployed(kube, [MANIFESTS / "prometheus.yaml"], {"monitoring": image}, config={"prometheus": config}):
            yield str(service["spec"]["clusterIP"])
    finally:
        kube.delete("namespace", NAMESPACE)


@contextmanager
def adapter(kube: Kube, image: Image, prometheus: str) -> Iterator[None]:
    """The custom metrics API, over the Prometheus at that address, by the example's rules."""
    config = {"config.yaml": yaml.safe_dump(rules(yaml.safe_load(RULES.read_text())))}
    with deployed(
        kube.elsewhere(NAMESPACE), [MANIFESTS / "prometheus-adapter.yaml"], {"monitoring": image},
        config={"adapter": config}, hosts={"prometheus.monitoring": prometheus},
    ):  # fmt: skip
        yield


def rules(values: Object) -> Object:
    """The adapter's configuration, as its chart makes it of these values."""
    return {"rules": values["rules"]["custom"]}


def configuration(objects: Sequence[Object]) -> Object:
    """The configuration of a Prometheus that does what the PodMonitors among `objects` say."""
    jobs = [
        _job(monitor, endpoint)
        for monitor in objects
        if monitor["kind"] == "PodMonitor"
        for endpoint in monitor["spec"]["podMetricsEndpoints"]
    ]
    return {"scrape_configs": jobs}


def _job(monitor: Object, endpoint: Object) -> Object:
    """As the Prometheus operator writes it: pods by namespace and label, a port by its name."""
    spec, name = monitor["spec"], monitor["metadata"]["name"]
    relabel: list[dict[str, Any]] = [
        {"action": "keep", "source_labels": [f"__meta_kubernetes_pod_label_{_label(key)}"], "regex": value}
        for key, value in spec["selector"]["matchLabels"].items()
    ]
    relabel.append({
        "action": "keep", "source_labels": ["__meta_kubernetes_pod_container_port_name"], "regex": endpoint["port"],
    })  # fmt: skip
    for label, source in {"namespace": "namespace", "pod": "pod_name", "container": "pod_container_name"}.items():
        relabel.append({"source_labels": [f"__meta_kubernetes_{source}"], "target_label": label})
    for more in endpoint.get("relabelings", []):
        relabel.append({"source_labels": more["sourceLabels"], "target_label": more["targetLabel"]})
    wanted = spec.get("namespaceSelector", {})
    names = [] if wanted.get("any") else wanted.get("matchNames", [monitor["metadata"]["namespace"]])
    return {
        "job_name": f"{name}/{endpoint['port']}",
        "honor_labels": endpoint.get("honorLabels", False),
        "metrics_path": endpoint["path"],
        "scrape_interval": endpoint["interval"],
        "scrape_timeout": endpoint["interval"],
        "kubernetes_sd_configs": [{"role": "pod", **({"namespaces": {"names": names}} if names else {})}],
        "relabel_configs": relabel,
    }


def _label(key: str) -> str:
    return "".join(letter if letter.isalnum() else "_" for letter in key)
