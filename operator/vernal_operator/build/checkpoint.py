"""The VLLMCheckpoint that the operator makes for an artifact, and the Job that removes an artifact's
files.
"""

import hashlib
from collections.abc import Iterable
from typing import Any

from vernal_contract import names

from vernal_operator.api.checkpoint import VLLMCheckpointSpec
from vernal_operator.api.pool import Storage, VLLMWorkerPoolSpec
from vernal_operator.build.meta import Manifest, Owner
from vernal_operator.build.pod import claim_volume, store_mount, store_user

JANITOR_PATIENCE_SECONDS = 600.0
"""How long the janitor waits for workers that read or make the checkpoint before it fails and is run again."""

JANITOR_SECONDS = 1800
"""Longest that a janitor may take, waiting for a node and for the claim included; then its Job fails, which is told."""


def checkpoint_name(identity: str, host_tuple: str, storage: Storage) -> str:
    """The same for every pool of the namespace that would share the artifact, and for no other."""
    place = "\n".join((host_tuple, storage.claim_name, storage.sub_path))
    return f"{identity[:12]}-{hashlib.sha256(place.encode()).hexdigest()[:8]}"


def checkpoint(
    namespace: str,
    spec: VLLMWorkerPoolSpec,
    storage: Storage,
    *,
    identity: str,
    host_tuple: str,
    identity_inputs: dict[str, Any],
    host: dict[str, Any],
) -> Manifest:
    """The VLLMCheckpoint of an artifact. It has no owner: it outlives pools and is shared by them."""
    listed = spec.pod_template.spec.get("imagePullSecrets")
    secrets = [
        entry["name"]
        for entry in (listed if isinstance(listed, list) else [])
        if isinstance(entry, dict) and isinstance(entry.get("name"), str)
    ]
    wanted = VLLMCheckpointSpec(
        identity=identity,
        host_tuple=host_tuple,
        identity_inputs=identity_inputs,
        host=host,
        model=spec.model.name,
        storage=storage,
        image=spec.image,
        image_pull_secrets=secrets,
    )
    return {
        "apiVersion": names.API_VERSION,
        "kind": "VLLMCheckpoint",
        "metadata": {
            "name": checkpoint_name(identity, host_tuple, storage),
            "namespace": namespace,
            "finalizers": [names.FINALIZER_CHECKPOINT],
        },
        "spec": wanted.model_dump(mode="json", by_alias=True),
    }


def janitor_job(owner: Owner, spec: VLLMCheckpointSpec, known: Iterable[tuple[str, str]] = ()) -> Manifest:
    """The Job that removes the files of a checkpoint that nothing uses, and names orphans: artifacts of its claim and
    path that are none of `known` (identities and host tuples). The operator itself mounts nothing.
    """
    labels = {names.LABEL_COMPONENT: names.COMPONENT_JANITOR}
    container: Manifest = {
        "name": "janitor",
        "image": spec.image,
        "imagePullPolicy": "IfNotPresent",
        "args": [  # of `vernal-worker`, which is the image's entry point
            "gc",
            *("--identity", spec.identity),
            *("--host", spec.host_tuple),
            *("--user", store_user(owner.namespace, spec.storage)),
            *("--patience", f"{JANITOR_PATIENCE_SECONDS:g}"),
        ],
        # Not an argument: the image may be of an earlier release, which would refuse it.
        "env": [{"name": names.ENV_KNOWN, "value": ",".join(sorted(map("/".join, known)))}],
        "volumeMounts": [store_mount(spec.storage)],
        "resources": {"requests": {"cpu": "50m", "memory": "64Mi"}},
        "securityContext": {
            "runAsUser": 0,  # as the worker that wrote the files; they are readable by nobody else
            "allowPrivilegeEscalation": False,
            "capabilities": {"drop": ["ALL"]},
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "terminationMessagePolicy": "FallbackToLogsOnError",
    }
    pod: Manifest = {
        "restartPolicy": "Never",
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "containers": [container],
        "volumes": [claim_volume("store", spec.storage.claim_name)],
    }
    if spec.image_pull_secrets:
        pod["imagePullSecrets"] = [{"name": name} for name in spec.image_pull_secrets]
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {
            "name": f"{owner.name}-janitor",
            "namespace": owner.namespace,
            "labels": labels,
            "ownerReferences": [owner.reference()],
        },
        "spec": {
            "backoffLimit": 3,
            "activeDeadlineSeconds": JANITOR_SECONDS,
            "template": {"metadata": {"labels": labels}, "spec": pod},
        },
    }
