"""Whether a pod could run on a node, as far as that is known without a scheduler: what may be left of the node's
resources is not asked.

https://kubernetes.io/docs/concepts/scheduling-eviction/assign-pod-node/ and .../taint-and-toleration/
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from decimal import Decimal
from functools import lru_cache
from typing import Any

from vernal_operator.api.common import exact
from vernal_operator.plan.model import NodeView, Taint

_ARCHITECTURES = {"amd64": "x86_64", "arm64": "aarch64"}  # Kubernetes' words, and the kernel's
_KEEPS_OFF = ("NoSchedule", "NoExecute")


def fits(pod: Mapping[str, Any], node: NodeView) -> bool:
    """`pod`: the spec of a pod."""
    if not node.ready or pod.get("nodeName", node.name) != node.name:
        return False
    if any(node.labels.get(key) != value for key, value in (pod.get("nodeSelector") or {}).items()):
        return False
    affinity = (pod.get("affinity") or {}).get("nodeAffinity") or {}
    required = affinity.get("requiredDuringSchedulingIgnoredDuringExecution")
    if required is not None and not any(_term(term, node) for term in required.get("nodeSelectorTerms") or ()):
        return False
    tolerations = pod.get("tolerations") or ()
    if any(t.effect in _KEEPS_OFF and not any(_tolerates(one, t) for one in tolerations) for t in node.taints):
        return False
    return _has_room(pod, node)


def same_machine(host: Mapping[str, Any], node: NodeView) -> bool:
    """Whether a host tuple may be this node's, by what both say."""
    here = {
        "architecture": _ARCHITECTURES.get(node.architecture, node.architecture),
        "kernel": ".".join(node.kernel.split(".")[:2]),
    }
    return all(not here[name] or not host.get(name) or host[name] == here[name] for name in here)


def _term(term: Mapping[str, Any], node: NodeView) -> bool:
    """Without any requirement it matches nothing, by the API's word."""
    by_label = [(entry, node.labels.get(entry.get("key", ""))) for entry in term.get("matchExpressions") or ()]
    by_field = [(entry, node.name) for entry in term.get("matchFields") or ()]  # there is but metadata.name
    both = [*by_label, *by_field]
    return bool(both) and all(_matches(entry, value) for entry, value in both)


def _matches(requirement: Mapping[str, Any], value: str | None) -> bool:
    values = requirement.get("values") or []
    match requirement.get("operator"):
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


def _tolerates(toleration: Mapping[str, Any], taint: Taint) -> bool:
    if toleration.get("effect") not in (None, "", taint.effect):
        return False
    key, exists = toleration.get("key") or "", toleration.get("operator") == "Exists"
    if not key:
        return exists
    return key == taint.key and (exists or (toleration.get("value") or "") == taint.value)


def _has_room(pod: Mapping[str, Any], node: NodeView) -> bool:
    wanted: Counter[str] = Counter()
    for name, amount in _requests(pod.get("containers") or ()):
        wanted[name] += amount  # type: ignore[assignment]  # Counter adds whatever can be added
    return all(not amount or amount <= _quantity(node.allocatable.get(name, 0)) for name, amount in wanted.items())


def _requests(containers: Iterable[Mapping[str, Any]]) -> Iterable[tuple[str, Decimal]]:
    """A limit without a request is one."""
    for container in containers:
        resources = container.get("resources") or {}
        wanted = dict(resources.get("limits") or {}) | dict(resources.get("requests") or {})
        yield from ((name, _quantity(amount)) for name, amount in wanted.items())


@lru_cache(4096)  # nodes are many, and alike
def _quantity(value: Any) -> Decimal:
    try:
        return exact(value)
    except (ValueError, TypeError, ArithmeticError):  # the API server would not have it either
        return Decimal(0)
