"""The objects that the demo applies, as plain dictionaries."""

import pathlib
from typing import Any

from scenarios.buckets import Bucket
from scenarios.kube import Object

POOL = "tiny"
CLAIM = "vernal-store"
SECRET = "vernal-bucket"
BESIDE = "beside-the-pool"
MODEL_NAME = "tiny"
MODEL_PATH = "models/tiny"
MODEL_MADE = "/mnt/model"
PATIENT_SECONDS = 1800  # far more than anything here takes: a busy machine must not look like a failed thaw
DRAIN_SECONDS = PATIENT_SECONDS  # or like a lost request

ENGINE_ARGS: dict[str, Any] = {
    "dtype": "float32",
    "max_model_len": 2048,
    "num_gpu_blocks_override": 64,
    "kv_cache_memory_bytes": 256 << 20,  # by default the CPU engine asks for a share of the node, for itself alone
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
            "checkpoint": {
                "policy": "Auto", "storage": {"claimName": CLAIM, "subPath": "checkpoints"},
                "freezeTimeoutSeconds": PATIENT_SECONDS, "thawTimeoutSeconds": PATIENT_SECONDS,
            },
            "drain": {"propagationSeconds": 2, "timeoutSeconds": DRAIN_SECONDS},
            "terminationGracePeriodSeconds": DRAIN_SECONDS + 30,
        },
    }  # fmt: skip


def impatient(made: Object) -> Object:
    """A pool whose pods are given up ten seconds after their node is, where Kubernetes gives five minutes."""
    tolerations = [
        {"key": f"node.kubernetes.io/{key}", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 10}
        for key in ("unreachable", "not-ready")
    ]
    made["spec"]["podTemplate"] = {"spec": {"tolerations": tolerations}}
    return made


def secret(bucket: Bucket) -> Object:
    return {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": SECRET}, "stringData": dict(bucket.keys)}


def bucket_pool(image: str, replicas: int, bucket: Bucket) -> Object:
    """A pool that needs no claim: its checkpoints are in a bucket, and each pod makes the tiny model on its own disk,
    where others have it from a hub or in their image. What nothing uses is not kept.
    """
    made = pool(image, replicas)
    store = {"url": bucket.url, "endpoint": bucket.endpoint, "region": bucket.region}
    made["spec"]["model"]["source"] = {"image": {"path": MODEL_MADE}}
    made["spec"]["checkpoint"] |= {
        "storage": {
            "objectStore": {name: value for name, value in store.items() if value is not None}
            | {"credentialsSecret": {"name": SECRET}}
        },
        "retention": {"unusedSeconds": 0},
    }
    model = {"name": "model", "mountPath": MODEL_MADE}
    made["spec"]["podTemplate"] = {"spec": {
        "initContainers": [{
            "name": "make-model", "image": image, "imagePullPolicy": "IfNotPresent",
            "command": ["/opt/vernal/venv/bin/python", "/scripts/tiny.py", MODEL_MADE],
            "volumeMounts": [model, {"name": "scripts", "mountPath": "/scripts"}],
        }],
        "containers": [{"name": "worker", "volumeMounts": [model]}],
        "volumes": [{"name": "model", "emptyDir": {}}, {"name": "scripts", "configMap": {"name": "make-model"}}],
    }}  # fmt: skip
    return made


def beside_bucket(image: str, bucket: Bucket) -> Object:
    """A pod in which `vernal-worker bucket` works, as for a person who looks at the bucket."""
    place = {"AWS_ENDPOINT_URL": bucket.endpoint, "AWS_REGION": bucket.region}
    container = {
        "name": "vernal-worker", "image": image, "imagePullPolicy": "IfNotPresent", "command": ["sleep", "infinity"],
        "env": [{"name": name, "value": value} for name, value in place.items() if value is not None],
        "envFrom": [{"secretRef": {"name": SECRET}}],
    }  # fmt: skip
    return {
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": BESIDE},
        "spec": {
            "automountServiceAccountToken": False, "terminationGracePeriodSeconds": 0, "containers": [container],
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


REQUESTS = {"cpu": "20m", "memory": "64Mi"}


def limit_range() -> Object:
    """Requests for containers that have none, as a careful administrator sets them."""
    return {
        "apiVersion": "v1", "kind": "LimitRange", "metadata": {"name": "defaults"},
        "spec": {"limits": [{"type": "Container", "defaultRequest": REQUESTS}]},
    }  # fmt: skip


def quota(name: str, pods: int) -> Object:
    spec = {"hard": {"pods": str(pods)}}
    return {"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": name}, "spec": spec}


def injector(namespace: str, image: str) -> list[Object]:
    """What a service mesh does to the pools' pods of one namespace: a container in front of all others, and a label."""
    name, group = f"{namespace}-sidecar", "admissionregistration.k8s.io/v1"
    script = "trap 'exit 0' TERM; while :; do sleep 3600 & wait; done"
    expression = f"""[
      JSONPatch{{op: "add", path: "/spec/containers/0", value: Object.spec.containers{{
        name: "mesh", image: "{image}", imagePullPolicy: "IfNotPresent", command: ["sh", "-c", "{script}"]
      }}}},
      JSONPatch{{op: "add", path: "/metadata/labels/mesh.example.com~1injected", value: "true"}}
    ]"""
    pods = {"apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["pods"]}
    ours = "has(object.metadata.labels) && 'vernal.dev/pool' in object.metadata.labels"
    return [
        {
            "apiVersion": group, "kind": "MutatingAdmissionPolicy", "metadata": {"name": name},
            "spec": {
                "failurePolicy": "Fail", "reinvocationPolicy": "Never", "matchConstraints": {"resourceRules": [pods]},
                "matchConditions": [{"name": "a-pool-s", "expression": ours}],
                "mutations": [{"patchType": "JSONPatch", "jsonPatch": {"expression": expression}}],
            },
        },
        {
            "apiVersion": group, "kind": "MutatingAdmissionPolicyBinding", "metadata": {"name": name},
            "spec": {
                "policyName": name,
                "matchResources": {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": namespace}}},
            },
        },
    ]  # fmt: skip


def probe_pod(image: str) -> Object:
    """A pod like a pool's, to see whether `injector` is at work; never made."""
    return {
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "probe", "labels": {"vernal.dev/pool": "probe"}},
        "spec": {"containers": [{"name": "worker", "image": image}]},
    }  # fmt: skip
