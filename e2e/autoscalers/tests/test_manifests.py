"""What autoscalers are told is what Vernal gives to users; their manifests are those of the version that is built."""

import json
from pathlib import Path

import pytest
import yaml
from autoscalers import KEDA, Image
from autoscalers.monitoring import RULES, configuration, rules
from autoscalers.stack import available, kustomization

ENDPOINT = {"port": "metrics", "path": "/metrics", "interval": "5s"}


def monitor(spec: dict[str, object], **endpoint: object) -> dict[str, object]:
    whole = {"selector": {"matchLabels": {"app.kubernetes.io/name": "vernal"}}, **spec}
    whole["podMetricsEndpoints"] = [{**ENDPOINT, **endpoint}]
    return {"kind": "PodMonitor", "metadata": {"name": "vernal", "namespace": "vernal-system"}, "spec": whole}


def test_a_pod_monitor_becomes_a_job() -> None:
    (job,) = configuration([{"kind": "Service"}, monitor({}, honorLabels=True)])["scrape_configs"]
    assert job["honor_labels"] is True and job["scrape_interval"] == "5s" and job["metrics_path"] == "/metrics"
    assert job["kubernetes_sd_configs"] == [{"role": "pod", "namespaces": {"names": ["vernal-system"]}}]
    kept = [(rule["source_labels"], rule["regex"]) for rule in job["relabel_configs"] if rule.get("action") == "keep"]
    assert kept == [
        (["__meta_kubernetes_pod_label_app_kubernetes_io_name"], "vernal"),
        (["__meta_kubernetes_pod_container_port_name"], "metrics"),
    ]


@pytest.mark.parametrize(
    ("selector", "names"),
    [({"any": True}, None), ({"matchNames": ["ml"]}, ["ml"]), ({}, ["vernal-system"])],
)
def test_namespaces_are_those_that_the_monitor_selects(selector: dict[str, object], names: list[str] | None) -> None:
    (job,) = configuration([monitor({"namespaceSelector": selector})])["scrape_configs"]
    (discovery,) = job["kubernetes_sd_configs"]
    assert discovery.get("namespaces", {}).get("names") == names
    assert job["honor_labels"] is False


def test_relabelings_are_kept() -> None:
    label = {"sourceLabels": ["__meta_kubernetes_pod_label_vernal_dev_pool"], "targetLabel": "pool"}
    (job,) = configuration([monitor({}, relabelings=[label])])["scrape_configs"]
    assert job["relabel_configs"][-1] == {"source_labels": label["sourceLabels"], "target_label": "pool"}


def test_the_adapter_gets_the_rule_of_the_example_as_it_stands() -> None:
    example = yaml.safe_load(RULES.read_text())
    assert rules(example) == {"rules": example["rules"]["custom"]} and len(example["rules"]["custom"]) == 1


def test_images_names_and_configuration_are_put_into_manifests(tmp_path: Path) -> None:
    image = Image(tmp_path, "vernal.local/autoscalers", "1")
    made = kustomization(
        tmp_path / "a",
        "ns",
        [tmp_path / "b.yaml"],
        {"theirs": image},
        {"config": {"key": "text\n"}},
        {"name": "10.0.0.1"},
    )
    assert made["resources"] == ["../b.yaml"]
    assert made["images"] == [{"name": "theirs", "newName": "vernal.local/autoscalers", "newTag": "1"}]
    assert made["configMapGenerator"] == [{"name": "config", "namespace": "ns", "literals": ["key=text\n"]}]
    (patch,) = made["patches"]
    assert json.loads(patch["patch"])[-1]["value"] == [{"ip": "10.0.0.1", "hostnames": ["name"]}]


@pytest.mark.parametrize(("status", "answers"), [("True", True), ("False", False)])
def test_an_api_service_answers_when_it_says_so(status: str, answers: bool) -> None:
    assert available({"status": {"conditions": [{"type": "Available", "status": status}]}}) is answers
    assert not available({})


def test_the_keda_that_runs_is_the_one_whose_crds_examples_are_tried_against() -> None:
    neighbours = KEDA.sources.parents[1] / "checkers" / "go" / "neighbours.mod"
    pin = next(line.strip() for line in neighbours.read_text().splitlines() if "kedacore/keda" in line)
    assert pin in (KEDA.sources / "keda.mod").read_text()
