"""The objects that the demo applies, as plain dictionaries."""

import pathlib
from typing import Any

from scenarios.kube import Object

POOL = "tiny"
CLAIM = "vernal-store"
MODEL_NAME = "tiny"
MODEL_PATH = "models/tiny"
DRAIN_SECONDS = 1800  # far more than anything here takes: a busy machine must not look like a lost request

ENGINE_ARGS: dict[str, Any] = {
    "dtype": "float32",
    "max_model_len": 2048,
    "num_gpu_blocks_override": 64,
    "gpu_memory_utilization": 0.05,  # the CPU engine asks for this share of the node before it starts
    "enforce_eager": True,
    "max_num_seqs": 8,
    "seed": 0,
    "scheduler_cls": "vernal_worker.engine.holding.HoldingScheduler",  # a request can be held in flight: `client.hold`
}
# Several workers share the one node: by default each would bind its threads to core 0, and threads that wait for each
# other at every layer of a tiny model cost more than they win.
ENGINE_ENV = [
    {"name": "VLLM_CPU_OMP_THREADS_BIND", "value": "nobind"},
    {"name": "OMP_NUM_THREADS", "value": "1"},
]


def namespace(name: str) -> Object:
    return {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}


def volume(name: str, host_path: str) -> Object:
    """A volume on the one node; a real cluster brings its own class of shared (RWX) storage instead."""
    return {
        "apiVersion": "v1", "kind": "PersistentVolume", "metadata": {"name": name},
        "spec": {
            "capacity": {"storage": "20Gi"}, "accessModes": ["ReadWriteMany"], "storageClassName": "",
            "persistentVolumeReclaimPolicy": "Retain", "hostPath": {"path": host_path, "type": "DirectoryOrCreate"},
        },
    }  # fmt: skip


def claim(volume_name: str | None, storage_class: str | None) -> Object:
    spec: Object = {"accessModes": ["ReadWriteMany"], "resources": {"requests": {"storage": "20Gi"}}}
    if volume_name is not None:
        spec |= {"storageClassName": "", "volumeName": volume_name}
    elif storage_class is not None:
        spec["storageClassName"] = storage_class
    return {"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": CLAIM}, "spec": spec}


def model_script(source: pathlib.Path) -> Object:
    """The model maker as a ConfigMap: the worker image has torch and transformers, so nothing else is needed."""
    return {
        "apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "make-model"},
        "data": {"tiny.py": source.read_text()},
    }  # fmt: skip


def model_job(image: str) -> Object:
    container = {
        "name": "make-model", "image": image, "imagePullPolicy": "IfNotPresent",
        "command": ["/opt/vernal/venv/bin/python", "/scripts/tiny.py", f"/store/{MODEL_PATH}"],
        "volumeMounts": [{"name": "store", "mountPath": "/store"}, {"name": "scripts", "mountPath": "/scripts"}],
    }  # fmt: skip
    return {
        "apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "make-model"},
        "spec": {
            "backoffLimit": 2,
            "template": {
                "spec": {
                    "restartPolicy": "Never", "automountServiceAccountToken": False, "containers": [container],
                    "volumes": [
                        {"name": "store", "persistentVolumeClaim": {"claimName": CLAIM}},
                        {"name": "scripts", "configMap": {"name": "make-model"}},
                    ],
                }
            },
        },
    }  # fmt: skip


def pool(image: str, replicas: int) -> Object:
    return {
        "apiVersion": "vernal.dev/v1alpha1", "kind": "VLLMWorkerPool", "metadata": {"name": POOL},
        "spec": {
            "replicas": replicas, "image": image,
            "model": {"name": MODEL_NAME, "source": {"claim": {"claimName": CLAIM, "path": MODEL_PATH}}},
            "engineArgs": ENGINE_ARGS, "env": ENGINE_ENV,
            "checkpoint": {"policy": "Auto", "storage": {"claimName": CLAIM, "subPath": "checkpoints"}},
            "drain": {"propagationSeconds": 2, "timeoutSeconds": DRAIN_SECONDS},
            "terminationGracePeriodSeconds": DRAIN_SECONDS + 30,
        },
    }  # fmt: skip


def hpa(low: int, high: int) -> Object:
    """An autoscaler on the pool's /scale. No metrics server runs on the embedded node, so `low` drives it."""
    return {
        "apiVersion": "autoscaling/v2", "kind": "HorizontalPodAutoscaler", "metadata": {"name": POOL},
        "spec": {
            "minReplicas": low, "maxReplicas": high,
            "scaleTargetRef": {"apiVersion": "vernal.dev/v1alpha1", "kind": "VLLMWorkerPool", "name": POOL},
        },
    }  # fmt: skip
