"""What a release of the chart has of its own, and what finds it: names, network, alerts, the plugin's report."""

from types import SimpleNamespace
from typing import Any

import pytest
from controlplane.cases import SYSTEM, Server
from controlplane.chart import rendered
from kubectl_vernal.verbs import report

pytestmark = pytest.mark.apiserver

WAKER = "waker.enabled=true"


def pods_of(made: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """The labels of each Deployment's pods, by its container's name."""
    templates = [doc["spec"]["template"] for doc in made if doc["kind"] == "Deployment"]
    return {each["spec"]["containers"][0]["name"]: each["metadata"]["labels"] for each in templates}


@pytest.mark.parametrize("waker", [True, False])
def test_who_may_send_requests_to_workers_does_not_shut_out_the_waker(server: Server, waker: bool) -> None:
    """It hands on what it held while there was no worker."""
    gateway = "networkPolicy.workers.servingFrom[0].namespaceSelector.matchLabels.team=gateway"
    made = rendered(server.helm, "vernal", "networkPolicy.workers.namespaces={ml}", gateway, f"waker.enabled={waker}")
    (policy,) = [doc for doc in made if doc["kind"] == "NetworkPolicy"]
    rule = policy["spec"]["ingress"][0]
    assert rule["ports"] == [{"port": "http"}]
    first, *others = rule["from"]
    assert first == {"namespaceSelector": {"matchLabels": {"team": "gateway"}}}
    assert len(others) == waker
    for peer in others:
        assert peer["namespaceSelector"] == {"matchLabels": {"kubernetes.io/metadata.name": SYSTEM}}
        assert peer["podSelector"]["matchLabels"].items() <= pods_of(made)["waker"].items()


@pytest.mark.parametrize("length", [10, 57, 58, 63])
def test_names_are_nobody_elses_however_long(server: Server, length: int) -> None:
    made = rendered(server.helm, "vernal", WAKER, f"fullnameOverride={'x' * length}", "podMonitor.enabled=true")
    found = [(doc["kind"], doc["metadata"].get("namespace"), doc["metadata"]["name"]) for doc in made]
    assert len(set(found)) == len(found)
    kinds = ("Deployment", "ServiceAccount", "ClusterRole", "Role")
    assert all(len(name) <= 63 for kind, _, name in found if kind in kinds[:2]), found


def test_roles_that_somebody_else_makes_are_not_made(server: Server) -> None:
    made = rendered(server.helm, "vernal", WAKER, "rbac.create=false", "rbac.aggregate=false")
    kinds = [doc["kind"] for doc in made if "Role" in doc["kind"]]
    assert kinds == [], kinds


def test_that_nobody_leads_is_told_by_each_release_of_itself(server: Server) -> None:
    """Another one that has a leader does not keep its alert silent."""
    made = rendered(server.helm, "vernal", "prometheusRule.enabled=true")
    (rules,) = [doc for doc in made if doc["kind"] == "PrometheusRule"]
    every = {rule["alert"]: rule["expr"] for group in rules["spec"]["groups"] for rule in group["rules"]}
    assert every["VernalOperatorNoLeader"] == f'absent(vernal_operator_leader{{namespace="{SYSTEM}"}} == 1)'


def test_a_report_finds_the_pods_of_the_chart(server: Server) -> None:
    """By the labels that the chart gives them."""
    made = pods_of(rendered(server.helm, "vernal", WAKER))

    def items(path: str, query: dict[str, str]) -> list[dict[str, Any]]:
        name, _, value = query["labelSelector"].partition("=")
        return [{"metadata": {"labels": labels}} for labels in made.values() if labels[name] == value]

    context: Any = SimpleNamespace(cluster=SimpleNamespace(items=items))
    lacking: dict[str, str] = {}
    for container, labels in made.items():
        assert report._own(context, container, lacking) == [{"metadata": {"labels": labels}}]
    assert made.keys() == {"operator", "waker"} and not lacking
