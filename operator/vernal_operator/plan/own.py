"""What of an object is Vernal's. Others may write beside it (conditions, labels, defaults): that is no difference."""

import json
from collections.abc import Iterable, Mapping
from typing import Any

from vernal_operator.api.common import Model
from vernal_operator.api.status import VLLMCheckpointStatus, VLLMWorkerPoolStatus
from vernal_operator.plan.model import Manifest

POOL_CONDITIONS = ("Ready", "CheckpointReady", "Progressing", "Degraded")
CHECKPOINT_CONDITIONS = ("Ready", "Failed", "Quarantined")


def own_status(seen: Mapping[str, Any], model: type[Model], types: Iterable[str]) -> Manifest:
    """A status without what others wrote: our fields, and of the conditions those of our types."""
    known = {field.alias for field in model.model_fields.values()}
    status = {name: value for name, value in seen.items() if name in known}
    if "conditions" in status:
        status["conditions"] = [c for c in status["conditions"] if c.get("type") in set(types)]
    return status


def own_pool_status(seen: Mapping[str, Any]) -> Manifest:
    return own_status(seen, VLLMWorkerPoolStatus, POOL_CONDITIONS)


def own_checkpoint_status(seen: Mapping[str, Any]) -> Manifest:
    return own_status(seen, VLLMCheckpointStatus, CHECKPOINT_CONDITIONS)


def to_write(wanted: Manifest, seen: Manifest) -> Manifest | None:
    """`wanted`, or None where `seen` says the same; both are statuses without what is others'."""
    return None if _by_type(wanted) == _by_type(seen) else wanted


def _by_type(status: Manifest) -> Manifest:
    """The order of conditions means nothing."""
    return status | {"conditions": {c["type"]: c for c in status.get("conditions", [])}}


def is_as_applied(manifest: Any, owned: Mapping[str, Any]) -> bool:
    """Whether every field of a manifest is still Vernal's, by the field manager's record (`FieldsV1`).

    The API server takes a field out of it when somebody else changes its value, so nothing is compared with what the
    API server made of the manifest (defaults, normal forms of quantities).
    """
    if not owned:  # the record goes no deeper: the field is owned as a whole
        return True
    if isinstance(manifest, dict):
        return all(
            f"f:{name}" in owned and is_as_applied(value, owned[f"f:{name}"]) for name, value in manifest.items()
        )
    if isinstance(manifest, list):
        return all(_is_item_as_applied(item, owned) for item in manifest)
    return True


def _is_item_as_applied(item: Any, owned: Mapping[str, Any]) -> bool:
    """An item of a list whose items are owned each: `k:` and its keys as JSON, below which is what is owned of it, or
    `v:` and the whole of it. Keys that the manifest leaves out are the API server's defaults.
    """
    if not isinstance(item, dict):
        return any(name.startswith("v:") and json.loads(name[2:]) == item for name in owned)
    return any(
        name.startswith("k:")
        and all(item.get(key, value) == value for key, value in json.loads(name[2:]).items())
        and is_as_applied(item, inner)
        for name, inner in owned.items()
    )
