"""The revision of a pool: a hash of all in its spec that a pod is made of."""

import hashlib
import json
from typing import Any

from vernal_operator.api.pool import VLLMWorkerPoolSpec

_NOT_IN_PODS: dict[str, Any] = {
    "replicas": True,
    "rollout": True,
    "autoscaling": True,
    "disruption_budget": True,
    "checkpoint": {"startup": True, "retention": True},
}
"""Fields that can change without any pod being replaced."""


def revision(spec: VLLMWorkerPoolSpec) -> str:
    """Eight hex digits.

    Fields at their default do not count, so that a field that a later release adds rolls no pool. Neither
    does what the operator's release builds around the spec: an upgrade of the operator rolls no pool either.
    """
    relevant = spec.model_dump(mode="json", by_alias=True, exclude_defaults=True, exclude=_NOT_IN_PODS)
    text = json.dumps(relevant, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:8]
