"""Laying spec.podTemplate over the pod that Vernal builds, by the rules of Kubernetes' strategic merge patch.

* Objects are merged field by field; a field that is null in the overlay is removed.
* Lists whose entries have an identity (`MERGE_KEYS`) are merged by it: entries of the overlay change the
  entry of the same identity, or are added after the others.
* Any other list, and any scalar, is replaced.
"""

import copy
from typing import Any

MERGE_KEYS = {
    "containers": "name",
    "initContainers": "name",
    "volumes": "name",
    "env": "name",
    "imagePullSecrets": "name",
    "resourceClaims": "name",
    "claims": "name",
    "schedulingGates": "name",
    "volumeMounts": "mountPath",
    "volumeDevices": "devicePath",
    "ports": "containerPort",
    "hostAliases": "ip",
}
"""The identity of an entry, by the name of the list's field."""


def merge(base: dict[str, Any], overlay: dict[str, Any]) -> dict[str, Any]:
    """A new object: `overlay` laid over `base`. Neither is changed, nothing is shared with them."""
    out = copy.deepcopy(base)
    for name, value in overlay.items():
        if value is None:
            out.pop(name, None)
        elif isinstance(value, dict):
            under = out.get(name)
            out[name] = merge(under if isinstance(under, dict) else {}, value)
        elif isinstance(value, list) and name in MERGE_KEYS and isinstance(out.get(name), list):
            out[name] = _merge_list(out[name], value, MERGE_KEYS[name])
        else:
            out[name] = copy.deepcopy(value)
    return out


def _merge_list(base: list[Any], overlay: list[Any], key: str) -> list[Any]:
    out = list(base)
    places = {_identity(entry, key): i for i, entry in enumerate(out)}
    for entry in overlay:
        identity = _identity(entry, key)
        if identity is not None and identity in places:
            out[places[identity]] = merge(out[places[identity]], entry)
        else:
            places[identity] = len(out)
            out.append(copy.deepcopy(entry))
    return out


def _identity(entry: Any, key: str) -> str | int | None:
    """None of what has none; that it must have one is the API server's to say."""
    found = entry.get(key) if isinstance(entry, dict) else None
    return found if isinstance(found, str | int) else None
