"""On which nodes a pod could be."""

from typing import Any

import pytest
from vernal_operator.plan.model import NodeView, Taint
from vernal_operator.plan.placing import fits, needs, same_machine

NODE = NodeView(
    name="n1",
    labels={"gpu": "h100", "cores": "64", "empty": ""},
    allocatable={"cpu": "64", "memory": "500Gi", "nvidia.com/gpu": "8"},
    architecture="amd64",
    kernel="6.18.3-generic",
)
TAINTED = NodeView(name="n1", taints=(Taint("gpu", "yes", "NoSchedule"), Taint("soft", "", "PreferNoSchedule")))


def affinity(*terms: dict[str, Any]) -> dict[str, Any]:
    required = {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": list(terms)}}
    return {"affinity": {"nodeAffinity": required}}


def term(key: str, operator: str, *values: str) -> dict[str, Any]:
    return {"matchExpressions": [{"key": key, "operator": operator, "values": list(values)}]}


def wants(*resources: dict[str, Any]) -> dict[str, Any]:
    return {"containers": [{"resources": each} for each in resources]}


@pytest.mark.parametrize(
    ("pod", "expected"),
    [
        ({}, True),
        ({"nodeSelector": None, "affinity": None, "tolerations": None, "containers": None}, True),
        ({"nodeSelector": {"gpu": "h100"}}, True),
        ({"nodeSelector": {"gpu": "a100"}}, False),
        ({"nodeSelector": {"gpu": "h100", "zone": "x"}}, False),
        (affinity(term("gpu", "In", "a100", "h100")), True),
        (affinity(term("gpu", "In", "a100")), False),
        (affinity(term("gpu", "NotIn", "a100")), True),
        (affinity(term("zone", "NotIn", "a")), True),
        (affinity(term("empty", "Exists")), True),
        (affinity(term("zone", "Exists")), False),
        (affinity(term("zone", "DoesNotExist")), True),
        (affinity(term("cores", "Gt", "32")), True),
        (affinity(term("cores", "Lt", "64")), False),
        (affinity(term("gpu", "Gt", "1")), False),
        (affinity(term("gpu", "Invented", "h100")), False),
        (affinity({"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["n1"]}]}), True),
        (affinity({"matchFields": [{"key": "metadata.name", "operator": "NotIn", "values": ["n1"]}]}), False),
        (affinity({}), False),
        (affinity(), False),
        (affinity(term("gpu", "In", "a100"), term("gpu", "In", "h100")), True),
        (affinity(term("gpu", "In", "h100") | {"matchFields": [{"key": "metadata.name", "operator": "In"}]}), False),
        (wants({"limits": {"nvidia.com/gpu": 8}}), True),
        (wants({"limits": {"nvidia.com/gpu": 9}}), False),
        (wants({"limits": {"nvidia.com/gpu": 4}}, {"limits": {"nvidia.com/gpu": "5"}}), False),
        (wants({"limits": {"cpu": "100"}, "requests": {"cpu": "500m"}}), True),
        (wants({"requests": {"memory": "501Gi"}}), False),
        (wants({"requests": {"example.com/fpga": 1}}), False),
        (wants({"requests": {"example.com/fpga": 0}}), True),
    ],
)
def test_whether_a_pod_fits(pod: dict[str, Any], expected: bool) -> None:
    wanted = needs(pod)
    assert wanted is not None
    assert fits(wanted, NODE) is expected
    assert not fits(wanted, NodeView(name="n1", ready=False))


@pytest.mark.parametrize(
    "pod",
    [
        {"nodeSelector": "text"},
        {"nodeSelector": {"a": 1}},
        {"affinity": []},
        {"affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": "x"}}}},
        {"tolerations": ["x"]},
        {"tolerations": {"a": "b"}},
        wants({"limits": {"cpu": "much"}}),
        wants({"limits": {"cpu": "NaN"}}),
        wants({"limits": {"cpu": "1e999999999"}}, {"limits": {"cpu": "1"}}),
        wants({"limits": {"cpu": [1]}}),
    ],
)
def test_what_the_api_server_would_refuse_fits_nowhere(pod: dict[str, Any]) -> None:
    wanted = needs(pod)
    assert wanted is None or not fits(wanted, NODE)


def test_a_node_that_says_nonsense_has_no_room() -> None:
    wanted = needs(wants({"limits": {"cpu": 1}}))
    assert wanted is not None
    for amount in ("x", None, [], "NaN"):
        assert not fits(wanted, NodeView(name="n", allocatable={"cpu": amount}))


@pytest.mark.parametrize(
    ("toleration", "expected"),
    [
        (None, False),
        ({"operator": "Exists"}, True),
        ({"operator": "Exists", "effect": "NoExecute"}, False),
        ({"key": "gpu", "value": "yes"}, True),
        ({"key": "gpu", "value": "no"}, False),
        ({"key": "gpu", "operator": "Exists", "effect": "NoSchedule"}, True),
        ({"key": "other", "operator": "Exists"}, False),
        ({"value": "yes"}, False),
    ],
)
def test_taints(toleration: dict[str, Any] | None, expected: bool) -> None:
    wanted = needs({"tolerations": [toleration] if toleration else []})
    assert wanted is not None and fits(wanted, TAINTED) is expected


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ({"architecture": "x86_64", "kernel": "6.18"}, True),
        ({"architecture": "aarch64", "kernel": "6.18"}, False),
        ({"architecture": "x86_64", "kernel": "6.12"}, False),
        ({}, True),
    ],
)
def test_hosts_of_another_kind(host: dict[str, Any], expected: bool) -> None:
    assert same_machine(host, NODE) is expected
    assert same_machine(host, NodeView(name="n1")), "what is not known may be"
