"""The VLLMCheckpoint that the operator makes for an artifact, and the Job that removes an artifact's
files.
"""

import hashlib
from collections.abc import Iterable, Sequence
from typing import Any

from vernal_contract import names

from vernal_operator.api.checkpoint import VLLMCheckpointSpec
from vernal_operator.api.pool import VLLMWorkerPoolSpec
from vernal_operator.api.storage import ObjectStore, Storage
from vernal_operator.build.meta import Manifest, Owner
from vernal_operator.build.pod import claim_volume, object_store_keys, store_mount, store_user

JANITOR_PATIENCE_SECONDS = 600.0
"""How long the janitor waits for workers that read or make the checkpoint before it fails and is run again."""

JANITOR_SECONDS = 1800
"""Longest that a janitor may take, waiting for a node and for the claim included; then its Job fails, which is told."""


def checkpoint_name(identity: str, host_tuple: str, storage: Storage) -> str:
    """The same for every pool of the namespace that would share the artifact, and for no other."""
    place = "\n".join((host_tuple, *storage.place))
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
    wanted = VLLMCheckpointSpec(
        identity=identity,
        host_tuple=host_tuple,
        identity_inputs=identity_inputs,
        host=host,
        model=spec.model.name,
        storage=storage,
        image=spec.image,
        image_pull_secrets=pull_secrets(spec),
    )
    return {
        "apiVersion": names.API_VERSION,
        "kind": "VLLMCheckpoint",
        "metadata": {
            "name": checkpoint_name(identity, host_tuple, storage),
            "namespace": namespace,
            "finalizers": [names.FINALIZER_CHECKPOINT],
        },
        "spec": wanted.model_dump(mode="json", by_alias=True, exclude={"storage"}) | {"storage": _kept(storage)},
    }


def pull_secrets(spec: VLLMWorkerPoolSpec) -> list[str]:
    """Names of the Secrets that the pool's pods pull their image with."""
    listed = spec.pod_template.spec.get("imagePullSecrets")
    return [
        entry["name"]
        for entry in (listed if isinstance(listed, list) else [])
        if isinstance(entry, dict) and isinstance(entry.get("name"), str)
    ]


def _kept(storage: Storage) -> Manifest:
    """What the janitor needs to know of it."""
    made: Manifest = storage.model_dump(
        mode="json", by_alias=True, exclude_none=True, exclude={"object_store": {"size_limit"}}
    )
    return made


def janitor_job(owner: Owner, spec: VLLMCheckpointSpec, known: Iterable[tuple[str, str]] = ()) -> Manifest:
    """The Job that removes the files of a checkpoint that nothing uses, and names orphans: artifacts of its claim and
    path that are none of `known` (identities and host tuples). The operator itself mounts nothing, and has no
    credentials of buckets.
    """
    labels = {names.LABEL_COMPONENT: names.COMPONENT_JANITOR}
    pod = tidying_pod("janitor", spec.image, spec.image_pull_secrets, _janitor_work(owner, spec, known))
    if spec.storage.claim_name is not None:
        pod["volumes"] = [claim_volume("store", spec.storage.claim_name)]
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


def tidying_pod(name: str, image: str, secrets: Sequence[str], work: Manifest) -> Manifest:
    """The spec of a pod that does some `work` of `vernal-worker`'s (arguments, environment, mounts), and may nothing
    else.
    """
    container: Manifest = {
        "name": name,
        "image": image,
        "imagePullPolicy": "IfNotPresent",
        **work,
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
    }
    if secrets:
        pod["imagePullSecrets"] = [{"name": name} for name in secrets]
    return pod


def bucket_command(action: str, bucket: ObjectStore) -> list[str]:
    """The beginning of a command of `vernal-worker bucket`."""
    return ["bucket", action, bucket.url, *bucket_options(bucket)]


def bucket_options(bucket: ObjectStore) -> list[str]:
    options = {"--endpoint": bucket.endpoint, "--region": bucket.region}
    return [word for name, value in options.items() if value is not None for word in (name, value)]


def _janitor_work(owner: Owner, spec: VLLMCheckpointSpec, known: Iterable[tuple[str, str]]) -> Manifest:
    """Arguments of `vernal-worker`, which is the image's entry point, and what it needs."""
    which = [
        "--identity",
        spec.identity,
        "--host",
        spec.host_tuple,
        "--user",
        store_user(owner.namespace, spec.storage),
    ]
    if (bucket := spec.storage.object_store) is None:
        return {
            "args": ["gc", *which, "--patience", f"{JANITOR_PATIENCE_SECONDS:g}"],
            # Not an argument: the image may be of an earlier release, which would refuse it.
            "env": [{"name": names.ENV_KNOWN, "value": ",".join(sorted(map("/".join, known)))}],
            "volumeMounts": [store_mount(spec.storage)],
        }
    return {"args": [*bucket_command("rm", bucket), *which, "--gc"], "env": object_store_keys(bucket)}
