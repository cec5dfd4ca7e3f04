"""Whether a node would thaw a checkpoint, and what speaks against it."""

from typing import Any

import pytest
from kubectl_vernal.read import CHECKPOINTS
from kubectl_vernal.views import thaw
from recording import Change, a_node, pool, world


def test_nodes_are_told_apart_by_what_they_say_of_themselves() -> None:
    found = world()
    view = thaw.view(found, found.pool("demo", "qwen") or {})
    assert {node["name"]: node["verdict"] for node in view["nodes"]} == {"node": "yes", "other": "cold"}
    assert view["would"] == "yes"


def _on(change: Change) -> dict[str, str]:
    """Verdicts when the fitting node, or the pool, is changed."""
    found = world(change)
    view = thaw.view(found, found.pool("demo", "qwen") or {})
    return {node["name"]: node["verdict"] + " " + "; ".join(node["why"]) for node in view["nodes"]}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda raw: a_node(raw)["metadata"]["labels"].clear(), "unknown gpuProduct: the node does not tell"),
        (
            lambda raw: a_node(raw)["status"]["allocatable"].clear(),
            "no nvidia.com/gpu: 1 wanted, the node has none",
        ),
        (lambda raw: a_node(raw)["spec"].update(unschedulable=True), "no the node is cordoned"),
        (
            lambda raw: a_node(raw)["spec"].update(taints=[{"key": "gpu", "effect": "NoSchedule"}]),
            "no taint gpu:NoSchedule is not tolerated",
        ),
        (
            lambda raw: a_node(raw)["status"]["nodeInfo"].update(kernelVersion="6.1.0-amd64"),
            "cold kernel: artifact has '6.18', the node has '6.1'",
        ),
        (
            lambda raw: pool(raw)["spec"].update(podTemplate={"spec": {"nodeSelector": {"zone": "a"}}}),
            "no nodeSelector zone=a: the node has no such label",
        ),
    ],
)
def test_why_a_node_would_not_thaw(change: Change, said: str) -> None:
    assert _on(change)["node"].startswith(said)


@pytest.mark.parametrize(
    ("toleration", "tolerated"),
    [
        ({"operator": "Exists"}, True),
        ({"key": "gpu", "operator": "Exists"}, True),
        ({"key": "gpu", "value": "yes"}, True),
        ({"key": "gpu", "value": "no"}, False),
        ({"key": "gpu", "operator": "Exists", "effect": "NoExecute"}, False),
    ],
)
def test_tolerations_as_the_scheduler_reads_them(toleration: dict[str, str], tolerated: bool) -> None:
    def change(raw: dict[str, Any]) -> None:
        a_node(raw)["spec"]["taints"] = [{"key": "gpu", "value": "yes", "effect": "NoSchedule"}]
        pool(raw)["spec"]["podTemplate"] = {"spec": {"tolerations": [toleration]}}

    assert _on(change)["node"].startswith("yes" if tolerated else "no")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda raw: pool(raw)["spec"]["checkpoint"].update(policy="Disabled"), "spec.checkpoint.policy is Disabled"),
        (lambda raw: raw["objects"].update({CHECKPOINTS: []}), "is not there any more"),
        (lambda raw: pool(raw)["status"].pop("checkpoint"), "new pods thaw"),
        (
            lambda raw: pool(raw)["status"].update(updateRevision="22222222"),
            "no worker of 22222222 has reported one yet",
        ),
    ],
)
def test_what_speaks_against_it_on_any_node(change: Change, said: str) -> None:
    found = world(change)
    view = thaw.view(found, found.pool("demo", "qwen") or {})
    assert view["would"] == "no" and said in view["obstacle"]
