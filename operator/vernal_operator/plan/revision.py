"""The revision of a pool: a hash of all in its spec that a pod is made of, and how that is kept and read back."""

import hashlib
import json
from typing import Any

from vernal_operator.api.parse import parse_pool
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
    return hashlib.sha256(_text(relevant).encode()).hexdigest()[:8]


def content(spec: VLLMWorkerPoolSpec) -> str:
    """All that a pod is made of as JSON, with defaults: a later release may have others."""
    return _text(spec.model_dump(mode="json", by_alias=True, exclude=_NOT_IN_PODS))


def restored(kept: str, live: VLLMWorkerPoolSpec) -> VLLMWorkerPoolSpec | None:
    """The spec whose `content` was kept, with `live`'s fields in all that no pod is made of. None if it does not
    parse.
    """
    try:
        raw = json.loads(kept)
    except ValueError:
        return None
    spec, _ = parse_pool({"spec": raw})
    if spec is None:
        return None
    own = {name: getattr(live, name) for name, whole in _NOT_IN_PODS.items() if whole is True}
    checkpoint = {name: getattr(live.checkpoint, name) for name in _NOT_IN_PODS["checkpoint"]}
    return spec.model_copy(update=own | {"checkpoint": spec.checkpoint.model_copy(update=checkpoint)})


def _text(value: dict[str, Any]) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"))
