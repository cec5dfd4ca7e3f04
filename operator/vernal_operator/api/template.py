"""spec.podTemplate: an overlay for all that the pool has no field for, and what it must not ask for.

The API server cannot look inside (the schema preserves what it does not know), so these checks run when the
operator reads a pool; the condition `Degraded` with reason `InvalidSpec` then holds the message.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from pydantic import Field, field_validator
from vernal_contract import names

from vernal_operator.api.common import FreeForm, Model, nested

CONTAINER_LISTS = ("containers", "initContainers")
NAMED_LISTS = (*CONTAINER_LISTS, "volumes", "resourceClaims")

_OWNED = {
    "terminationGracePeriodSeconds": "set spec.terminationGracePeriodSeconds instead",
    "resourceClaims": "set spec.resourceClaims instead",
    "restartPolicy": "workers are always restarted in place",
    "ephemeralContainers": "use `kubectl debug`",
}
_NODE = {
    "hostNetwork": "it would give the pool's creator the node's network",
    "hostPID": "it would give the pool's creator the node's processes",
    "hostIPC": "it would give the pool's creator the node's shared memory",
    "automountServiceAccountToken": "a checkpoint is process memory, so a worker must hold no token",
}


def problems(spec: Mapping[str, Any]) -> Iterator[str]:
    """What is wrong with a podTemplate.spec, one line each, the field first."""
    root = "spec.podTemplate.spec"
    for name, why in _OWNED.items():
        if name in spec:
            yield f"{root}.{name} cannot be set: {why}"
    for name, why in _NODE.items():
        if spec.get(name):
            yield f"{root}.{name} cannot be true: {why}"
    for name in NAMED_LISTS:
        entries = spec.get(name, [])
        if not isinstance(entries, list) or not all(isinstance(e, dict) and _is_name(e.get("name")) for e in entries):
            yield f"{root}.{name} must be a list of objects with a name each"
            continue
        for entry in entries:
            where = f"{root}.{name}[{entry['name']}]"
            yield from _container(where, entry) if name in CONTAINER_LISTS else _volume(where, entry)


def _is_name(value: object) -> bool:
    return isinstance(value, str) and value != ""


def _volume(where: str, volume: Mapping[str, Any]) -> Iterator[str]:
    if "hostPath" in volume:
        yield f"{where}.hostPath cannot be set: it would give the pool's creator the node's files"


def _container(where: str, container: Mapping[str, Any]) -> Iterator[str]:
    security = container.get("securityContext") or {}
    if not isinstance(security, dict):
        yield f"{where}.securityContext must be an object"
        return
    capabilities = security.get("capabilities") or {}
    if security.get("privileged"):
        yield f"{where}.securityContext.privileged cannot be true: it would give the pool's creator the node"
    if isinstance(capabilities, dict) and capabilities.get("add"):
        yield f"{where}.securityContext.capabilities.add cannot be set: Vernal adds what a worker needs"
    for variable in container.get("env") or []:
        if isinstance(variable, dict) and str(variable.get("name", "")).startswith("VERNAL_"):
            yield f"{where}.env[{variable['name']}] cannot be set: Vernal uses names that start with VERNAL_"


class PodTemplateMetadata(Model):
    labels: dict[str, str] = Field(default={}, description="Labels added to each pod; none of vernal.dev/.")
    annotations: dict[str, str] = Field(default={}, description="Annotations added to each pod; none of vernal.dev/.")

    @field_validator("labels", "annotations")
    @classmethod
    def _not_ours(cls, value: dict[str, str]) -> dict[str, str]:
        for key in value:
            if key.startswith(f"{names.GROUP}/"):
                raise ValueError(f"{key} cannot be set: Vernal uses names of {names.GROUP}/")
        return value


class PodTemplate(Model):
    """An overlay for all that the pool has no field for."""

    metadata: PodTemplateMetadata = nested("Labels and annotations.")
    spec: FreeForm = Field(
        default={},
        description="Fields of a PodSpec, laid over the pod that Vernal builds: objects are merged field by "
        "field (null removes a field), lists of containers, volumes, env and the like are merged by name, "
        "volumeMounts by mountPath, any other list is replaced. The worker's container is named worker. "
        "What would give the pool's creator the node (host paths, host namespaces, privileged containers, "
        "capabilities) is refused.",
    )

    @field_validator("spec")
    @classmethod
    def _harmless(cls, value: dict[str, Any]) -> dict[str, Any]:
        found = list(problems(value))
        if found:
            raise ValueError("; ".join(found))
        return value
