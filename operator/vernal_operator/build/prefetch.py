"""The Job that brings a checkpoint into one node's cache. Why it is a Job: docs/design/0025-node-cache.md."""

import hashlib
from collections.abc import Sequence
from typing import Any

from vernal_contract import names

from vernal_operator.api.checkpoint import VLLMCheckpointSpec
from vernal_operator.build.checkpoint import bucket_options, tidying_pod
from vernal_operator.build.meta import Manifest, Owner
from vernal_operator.build.pod import NodeCache, cache_volume, claim_volume, object_store_keys, store_mount

FETCH_SECONDS = 1800
"""Longest that one may take, waiting for its node and for the claim included; then its Job fails, which is told."""
_KEPT_SECONDS = 3600
"""After its end, should no operator be there that removes it."""


def fetch_job(
    owner: Owner,
    spec: VLLMCheckpointSpec,
    generation: str,
    node: str,
    cache: NodeCache,
    tolerations: Sequence[Any] = (),
) -> Manifest:
    """The same arguments give the same manifest. `tolerations`: of the pods that are to come there; the scheduler
    places it like them, on this node alone.
    """
    labels = {names.LABEL_COMPONENT: names.COMPONENT_PREFETCH}
    pod = tidying_pod("fetch", spec.image, spec.image_pull_secrets, _work(spec, generation, cache))
    pod["volumes"] = [_store(spec), cache_volume(cache, owner.namespace)]
    pod["affinity"] = {
        "nodeAffinity": {
            "requiredDuringSchedulingIgnoredDuringExecution": {
                "nodeSelectorTerms": [
                    {"matchFields": [{"key": "metadata.name", "operator": "In", "values": [node]}]},
                ]
            }
        }
    }
    if tolerations:
        pod["tolerations"] = list(tolerations)
    which = hashlib.sha256(f"{node}\n{generation}".encode()).hexdigest()[:8]
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {
            "name": f"{owner.name}-fetch-{which}",
            "namespace": owner.namespace,
            "labels": labels,
            "annotations": {names.ANNOTATION_NODE: node, names.ANNOTATION_GENERATION: generation},
            "ownerReferences": [owner.reference()],
        },
        "spec": {
            "backoffLimit": 0,  # the operator tries again, later
            "activeDeadlineSeconds": FETCH_SECONDS,
            "ttlSecondsAfterFinished": _KEPT_SECONDS,
            "template": {"metadata": {"labels": labels}, "spec": pod},
        },
    }


def _store(spec: VLLMCheckpointSpec) -> Manifest:
    """What is mounted as the store. A worker image of before may fetch from a bucket by way of it."""
    claim = spec.storage.claim_name
    return {"name": "store", "emptyDir": {}} if claim is None else claim_volume("store", claim)


def _work(spec: VLLMCheckpointSpec, generation: str, cache: NodeCache) -> Manifest:
    which = ["--identity", spec.identity, "--host", spec.host_tuple, "--generation", generation]
    args = ["cache", "fill", *which, "--size", str(cache.size)]
    mounts = [{"name": names.VOLUME_NODE_CACHE, "mountPath": names.PATH_NODE_CACHE}]
    if (bucket := spec.storage.object_store) is None:
        return {"args": args, "volumeMounts": [store_mount(spec.storage) | {"readOnly": True}, *mounts]}
    return {
        "args": [*args, "--bucket", bucket.url, *bucket_options(bucket)],
        "env": object_store_keys(bucket),
        "volumeMounts": [store_mount(spec.storage), *mounts],
    }
