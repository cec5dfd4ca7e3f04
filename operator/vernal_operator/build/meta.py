"""Names, labels and owner references of what a pool or a checkpoint owns."""

import hashlib
import json
from dataclasses import dataclass
from typing import Any

from vernal_contract import names

from vernal_operator.kinds import Kind

Manifest = dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Owner:
    """The object that owns what is built."""

    kind: str
    name: str
    namespace: str
    uid: str

    def reference(self) -> Manifest:
        return {
            "apiVersion": names.API_VERSION,
            "kind": self.kind,
            "name": self.name,
            "uid": self.uid,
            "controller": True,
            "blockOwnerDeletion": True,
        }


def pool_owner(name: str, namespace: str, uid: str) -> Owner:
    return Owner(kind="VLLMWorkerPool", name=name, namespace=namespace, uid=uid)


def checkpoint_owner(name: str, namespace: str, uid: str) -> Owner:
    return Owner(kind="VLLMCheckpoint", name=name, namespace=namespace, uid=uid)


def pod_name(pool: str, revision: str, slot: int) -> str:
    """`<pool>-<revision>-<slot>`: the same decision taken twice makes the same name."""
    return f"{pool}-{revision}-{slot}"


def pod_labels(pool: str) -> dict[str, str]:
    """Labels that all pods of a pool have, and nothing else has."""
    return {names.LABEL_POOL: pool, names.LABEL_COMPONENT: names.COMPONENT_WORKER}


def selector(pool: str) -> str:
    """The label selector of a pool's pods as a string, for /scale."""
    return ",".join(f"{key}={value}" for key, value in sorted(pod_labels(pool).items()))


def child(owner: Owner, kind: Kind, spec: Manifest, *, name: str = "") -> Manifest:
    """An object that `owner` controls, with the hash of its spec as annotation."""
    return {
        "apiVersion": kind.api_version,
        "kind": kind.name,
        "metadata": {
            "name": name or owner.name,
            "namespace": owner.namespace,
            "labels": {names.LABEL_POOL: owner.name},
            "annotations": {names.ANNOTATION_SPEC_HASH: digest(spec)},
            "ownerReferences": [owner.reference()],
        },
        "spec": spec,
    }


def digest(value: Any) -> str:
    """Sixteen hex digits over the canonical JSON of `value`."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]
