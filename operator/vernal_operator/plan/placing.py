"""Whether a pod could run on a node, as far as that is known without a scheduler: what may be left of the node's
resources is not asked.

https://kubernetes.io/docs/concepts/scheduling-eviction/assign-pod-node/ and .../taint-and-toleration/
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from functools import lru_cache
from typing import Any

import msgspec
from vernal_contract import decoding

from vernal_operator.api.common import exact
from vernal_operator.plan.model import NodeView, Taint

_ARCHITECTURES = {"amd64": "x86_64", "arm64": "aarch64"}  # Kubernetes' words, and the kernel's
_KEEPS_OFF = ("NoSchedule", "NoExecute")


class _Json(msgspec.Struct, rename="camel"):
    """Fields that are absent or null are the same to Kubernetes, hence the None's."""


class _Requirement(_Json):
    key: str = ""
    operator: str = ""
    values: list[str] | None = None


class _Term(_Json):
    match_expressions: list[_Requirement] | None = None
    match_fields: list[_Requirement] | None = None


class _NodeSelector(_Json):
    node_selector_terms: list[_Term] | None = None


class _NodeAffinity(_Json):
    required_during_scheduling_ignored_during_execution: _NodeSelector | None = None


class _Affinity(_Json):
    node_affinity: _NodeAffinity | None = None


class _Toleration(_Json):
    key: str | None = None
    operator: str | None = None
    value: str | None = None
    effect: str | None = None


class _Resources(_Json):
    limits: dict[str, str | int | float] | None = None
    requests: dict[str, str | int | float] | None = None


class _Container(_Json):
    resources: _Resources | None = None


class _Pod(_Json):
    node_selector: dict[str, str] | None = None
    affinity: _Affinity | None = None
    tolerations: list[_Toleration] | None = None
    containers: list[_Container] | None = None


@dataclass(frozen=True, slots=True)
class Needs:
    """What a pod asks of its node."""

    pod: _Pod
    resources: Mapping[str, Decimal] = field(default_factory=dict)


def needs(pod: Mapping[str, Any]) -> Needs | None:
    """Of the spec of a pod; None of one that the API server would not take: a pool may say anything there."""
    try:
        read = decoding.convert(dict(pod), _Pod)
        resources: dict[str, Decimal] = {}
        for container in read.containers or ():
            given = container.resources or _Resources()
            for name, amount in ((given.limits or {}) | (given.requests or {})).items():  # a limit alone is a request
                resources[name] = resources.get(name, Decimal(0)) + _quantity(amount)
    except (msgspec.ValidationError, ValueError, ArithmeticError):
        return None
    return Needs(read, resources)


def fits(wanted: Needs, node: NodeView) -> bool:
    pod = wanted.pod
    if not node.ready or any(node.labels.get(key) != value for key, value in (pod.node_selector or {}).items()):
        return False
    affinity = pod.affinity.node_affinity if pod.affinity is not None else None
    required = affinity.required_during_scheduling_ignored_during_execution if affinity is not None else None
    if required is not None and not any(_term(term, node) for term in required.node_selector_terms or ()):
        return False
    tolerations = pod.tolerations or ()
    if any(t.effect in _KEEPS_OFF and not any(_tolerates(one, t) for one in tolerations) for t in node.taints):
        return False
    return all(not amount or amount <= _room(node, name) for name, amount in wanted.resources.items())


def same_machine(host: Mapping[str, Any], node: NodeView) -> bool:
    """Whether a host tuple may be this node's, by what both say."""
    here = {
        "architecture": _ARCHITECTURES.get(node.architecture, node.architecture),
        "kernel": ".".join(node.kernel.split(".")[:2]),
    }
    return all(not here[name] or not host.get(name) or host[name] == here[name] for name in here)


def _term(term: _Term, node: NodeView) -> bool:
    """Without any requirement it matches nothing, by the API's word."""
    by_label = [(one, node.labels.get(one.key)) for one in term.match_expressions or ()]
    by_field = [(one, node.name) for one in term.match_fields or ()]  # there is but metadata.name
    both: list[tuple[_Requirement, str | None]] = [*by_label, *by_field]
    return bool(both) and all(_matches(one, value) for one, value in both)


def _matches(requirement: _Requirement, value: str | None) -> bool:
    values = requirement.values or []
    match requirement.operator:
        case "In":
            return value in values
        case "NotIn":
            return value not in values
        case "Exists":
            return value is not None
        case "DoesNotExist":
            return value is None
        case "Gt" | "Lt" as operator:
            try:
                have, wanted = int(value or ""), int(values[0])
            except (ValueError, IndexError):
                return False
            return have > wanted if operator == "Gt" else have < wanted
    return False


def _tolerates(toleration: _Toleration, taint: Taint) -> bool:
    if toleration.effect not in (None, "", taint.effect):
        return False
    exists = toleration.operator == "Exists"
    if not toleration.key:
        return exists
    return toleration.key == taint.key and (exists or (toleration.value or "") == taint.value)


def _room(node: NodeView, name: str) -> Decimal:
    try:
        return _quantity(node.allocatable.get(name, 0))
    except (ValueError, TypeError, ArithmeticError):
        return Decimal(0)


@lru_cache(4096)  # nodes are many, and alike
def _quantity(value: str | int | float) -> Decimal:
    """Raises: ValueError, ArithmeticError: it is none."""
    found = exact(str(value))
    if not found.is_finite():
        raise ValueError(f"{value!r} is no quantity")
    return found
