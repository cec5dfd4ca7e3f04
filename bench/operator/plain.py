#!/usr/bin/env python3
"""What one writes with kopf's index and nothing else, for comparison: it counts the ready pods of each pool in status.

It does a small part of what Vernal's operator does. `python3 plain.py NAMESPACE|-`; `-` is all namespaces.
"""

import logging
import sys
import threading
from typing import Any

import kopf
import kubernetes

GROUP, VERSION, PLURAL = "vernal.dev", "v1alpha1", "vllmworkerpools"
LABEL = "vernal.dev/pool"
registry = kopf.OperatorRegistry()
first: set[tuple[str, str]] = set()


@kopf.on.startup(registry=registry)
def start(settings: kopf.OperatorSettings, **_: Any) -> None:
    settings.posting.enabled = False
    settings.scanning.disabled = True


@kopf.on.login(registry=registry)
def login(**kwargs: Any) -> kopf.ConnectionInfo | None:
    return kopf.login_with_kubeconfig(**kwargs)


@kopf.index("v1", "pods", labels={LABEL: kopf.PRESENT}, registry=registry)
def ready(namespace: str, labels: kopf.Labels, status: kopf.Status, name: str, **_: Any) -> Any:
    conditions = {entry["type"]: entry["status"] for entry in status.get("conditions", [])}
    return {(namespace, labels[LABEL]): (name, conditions.get("Ready") == "True")}


@kopf.on.event(GROUP, VERSION, PLURAL, registry=registry)
def pool(namespace: str, name: str, status: kopf.Status, ready: kopf.Index[Any, Any], **_: Any) -> None:
    _count(namespace, name, status.get("readyReplicas"), ready)
    first.add((namespace, name))
    print(f"reconciled {len(first)}", flush=True)


@kopf.on.event("v1", "pods", labels={LABEL: kopf.PRESENT}, registry=registry)
def pod(namespace: str, labels: kopf.Labels, ready: kopf.Index[Any, Any], type: str | None, **_: Any) -> None:
    if type is not None:  # the pods of the first list are counted with their pools
        _count(namespace, labels[LABEL], None, ready)


def _count(namespace: str, name: str, told: int | None, index: kopf.Index[Any, Any]) -> None:
    count = sum(is_ready for _, is_ready in index.get((namespace, name), ()))
    if count != told:
        api = kubernetes.client.CustomObjectsApi()
        body = {"status": {"readyReplicas": count}}
        api.patch_namespaced_custom_object_status(GROUP, VERSION, namespace, PLURAL, name, body)


def main() -> None:
    logging.basicConfig(level=logging.WARNING)
    kubernetes.config.load_kube_config()
    threading.stack_size(1 << 20)
    where = sys.argv[1]
    kopf.run(registry=registry, standalone=True, clusterwide=where == "-", namespaces=[] if where == "-" else [where])


if __name__ == "__main__":
    main()
