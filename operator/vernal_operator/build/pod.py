"""The worker's pod."""

from dataclasses import dataclass
from typing import Any

from vernal_contract import config, names
from vernal_contract.config import CheckpointPolicy

from vernal_operator.api.common import Model, whole
from vernal_operator.api.env import EnvVar
from vernal_operator.api.kv_transfer import KVTransferSpec
from vernal_operator.api.pool import VLLMWorkerPoolSpec
from vernal_operator.api.storage import ObjectStore, Storage
from vernal_operator.build.meta import Manifest, Owner, pod_labels, pod_name
from vernal_operator.build.overlay import merge

CAPABILITIES = {
    "CHECKPOINT_RESTORE": "a thawed process has the PID that it had (clone3 set_tid); /proc/PID/map_files",
    "SYS_PTRACE": "CRIU seizes the tree, and writes memory of what is not its child",
    "SYS_ADMIN": "the tree's mount namespace, PR_SET_MM, seccomp filters",
    "NET_ADMIN": "sockets of the tree (TCP_REPAIR)",
    "SYS_TIME": "a thawed tree's clocks go on where they stood: offsets of its time namespace",
    "DAC_READ_SEARCH": "a file that is open and has no name any more gets one (linkat, CRIU's --link-remap)",
    "SYS_CHROOT": "each restored process sets its root",
    "SETPCAP": "to take capabilities from the engine for good",
    "SETUID": "each restored process sets its user",
    "SETGID": "and its groups",
    "DAC_OVERRIDE": "models and volumes may belong to anybody; the engine keeps it",
    "CHOWN": "files that travel with a checkpoint get their owner back",
    "FOWNER": "and their mode and times",
    "KILL": "to end processes of the tree, whoever's they are",
}
"""What CRIU needs as root of a container that is not privileged, and what for. The first six are none that containers
have by default; the others are named since a runtime's default may be less.
"""

_THAW_SECONDS = 1800  # where a thaw may take as long as the size of its checkpoint makes it
_SLACK_SECONDS = 60  # for what the worker's own time-outs do not cover, before the kubelet steps in


def startup_seconds(spec: VLLMWorkerPoolSpec) -> int:
    """The longest that a worker may take until it is started: a thaw that fails, a cold start, a freeze."""
    seconds = spec.startup_timeout_seconds + _SLACK_SECONDS
    if spec.checkpoint.policy != CheckpointPolicy.DISABLED:
        checkpoint = spec.checkpoint
        seconds += checkpoint.freeze_timeout_seconds + checkpoint.gpu_memory_wait_seconds
        if checkpoint.warm_up_seconds > 0:
            seconds += checkpoint.warm_up_seconds + config.WARM_UP_MORE_SECONDS
        thaw = checkpoint.thaw_timeout_seconds or _THAW_SECONDS
        in_bucket = checkpoint.storage is not None and checkpoint.storage.object_store is not None
        seconds += 2 * thaw if in_bucket else thaw  # as long may it take to bring what is thawed
    return seconds


def worker_config(pool: str, namespace: str, spec: VLLMWorkerPoolSpec, revision: str) -> config.WorkerConfig:
    """What the worker is told (`names.ENV_CONFIG`)."""
    checkpoint, drain, kv = spec.checkpoint, spec.drain, spec.kv_transfer
    return config.WorkerConfig(
        pool=pool,
        namespace=namespace,
        revision=revision,
        model=config.ModelConfig(name=spec.model.name, revision=spec.model.revision, path=_model_path(spec)),
        engine_args=spec.engine_args,
        engine_env={v.name: v.value for v in spec.env if v.value is not None},
        secret_env=tuple(v.name for v in spec.env if v.value_from is not None),
        checkpoint=config.CheckpointConfig(
            policy=checkpoint.policy,
            object_store=_object_store(checkpoint.storage),
            user="" if checkpoint.storage is None else store_user(namespace, checkpoint.storage),
            weights=checkpoint.weights,
            verify=checkpoint.verify,
            restore_attempts=checkpoint.restore_attempts,
            freeze_timeout_seconds=checkpoint.freeze_timeout_seconds,
            warm_up_seconds=checkpoint.warm_up_seconds,
            thaw_timeout_seconds=checkpoint.thaw_timeout_seconds,
            gpu_memory_wait_seconds=checkpoint.gpu_memory_wait_seconds,
        ),
        drain=config.DrainConfig(
            propagation_seconds=drain.propagation_seconds,
            timeout_seconds=drain.timeout_seconds,
            grace_period_seconds=spec.termination_grace_period_seconds,
        ),
        kv_transfer=None if kv is None else _kv_transfer(kv),
        startup_timeout_seconds=spec.startup_timeout_seconds,
        keep_alive_seconds=spec.keep_alive_seconds,
        max_body_bytes=config.MAX_BODY_BYTES if spec.max_body_size is None else whole(spec.max_body_size),
        # A worker that does not know it would say of what is on its own disk that it is published.
        must_understand=() if _object_store(checkpoint.storage) is None else ("checkpoint.objectStore",),
    )


def _object_store(storage: Storage | None) -> config.ObjectStoreConfig | None:
    if storage is None or (bucket := storage.object_store) is None:
        return None
    return config.ObjectStoreConfig(url=bucket.url, endpoint=bucket.endpoint, region=bucket.region)


def _kv_transfer(kv: KVTransferSpec) -> config.KVTransferConfig:
    return config.KVTransferConfig(
        connector=kv.connector,
        role=kv.role,
        load_failure_policy=kv.load_failure_policy.lower(),
        path=kv.path,
        max_bytes=None if kv.size_limit is None else whole(kv.size_limit),
        options=kv.options,
    )


_KEYS: tuple[tuple[str, Manifest], ...] = (
    ("AWS_ACCESS_KEY_ID", {}),
    ("AWS_SECRET_ACCESS_KEY", {}),
    ("AWS_SESSION_TOKEN", {"optional": True}),
)


@dataclass(frozen=True, slots=True)
class Renew:
    """Under which request (`names.ANNOTATION_RENEW`) a pod is made, and which generations it does not thaw."""

    request: str
    generations: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class NodeCache:
    """Of each node: a directory, in which each namespace has one of its own, and the bytes that such a one may have.

    `fetched`: how many nodes are to have each checkpoint before a pod is there, `at_once` of them at a time.
    """

    directory: str
    size: int
    fetched: int = 0
    at_once: int = 1


def worker_pod(
    owner: Owner,
    spec: VLLMWorkerPoolSpec,
    revision: str,
    slot: int,
    told: str | None = None,
    renew: Renew | None = None,
    node_cache: NodeCache | None = None,
) -> Manifest:
    """The Pod of one worker. The same arguments give the same manifest.

    `told` is the text of `names.ENV_CONFIG`; without it, it is made from `spec`. What `node_cache` says is in no
    revision: it is the administrator's, and the next pod's.
    """
    text = told or config.encode(worker_config(owner.name, owner.namespace, spec, revision))
    overlay, base = spec.pod_template, _pod_spec(spec, text)
    annotations = dict(overlay.metadata.annotations)
    if renew is not None:
        annotations[names.ANNOTATION_RENEW] = renew.request
        base["containers"][0]["env"].append({"name": names.ENV_RENEW, "value": ",".join(renew.generations)})
    if node_cache is not None and _has_checkpoints(spec):
        _cache_on_node(base, node_cache, owner.namespace)
    own_labels = pod_labels(owner.name) | {names.LABEL_REVISION: revision, names.LABEL_SLOT: str(slot)}
    metadata: Manifest = {
        "name": pod_name(owner.name, revision, slot),
        "namespace": owner.namespace,
        "labels": overlay.metadata.labels | own_labels,
        "ownerReferences": [owner.reference()],
    }
    if annotations:
        metadata["annotations"] = annotations
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": metadata,
        "spec": merge(base, overlay.spec) if overlay.spec else base,
    }


def _has_checkpoints(spec: VLLMWorkerPoolSpec) -> bool:
    return spec.checkpoint.policy != CheckpointPolicy.DISABLED and spec.checkpoint.storage is not None


def _cache_on_node(pod: Manifest, cache: NodeCache, namespace: str) -> None:
    """Read-only: the worker, which may, changes that for itself alone; a worker image that does not know of it cannot
    write, nor can its engine."""
    pod["volumes"].append(cache_volume(cache, namespace))
    worker = pod["containers"][0]
    mount = {"name": names.VOLUME_NODE_CACHE, "mountPath": names.PATH_NODE_CACHE, "readOnly": True}
    worker["volumeMounts"].append(mount)
    worker["env"].append({"name": names.ENV_NODE_CACHE, "value": str(cache.size)})


def cache_volume(cache: NodeCache, namespace: str) -> Manifest:
    path = f"{cache.directory}/{namespace}"
    return {"name": names.VOLUME_NODE_CACHE, "hostPath": {"path": path, "type": "DirectoryOrCreate"}}


def claim_volume(name: str, claim_name: str) -> Manifest:
    return {"name": name, "persistentVolumeClaim": {"claimName": claim_name}}


def store_user(namespace: str, storage: Storage) -> str:
    """On whose behalf workers use what is in the store, and the janitor lets go of it: several claims, of several
    namespaces too, may be one directory.
    """
    return "/".join((namespace, *storage.place))


def object_store_keys(bucket: ObjectStore) -> list[Manifest]:
    """Variables with the credentials: none of a Secret's other keys, and none that an engine would take for its own."""
    return [
        {
            "name": names.ENV_OBJECT_STORE + key,
            "valueFrom": {"secretKeyRef": {"name": bucket.credentials_secret.name, "key": key} | more},
        }
        for key, more in _KEYS
    ]


def store_mount(storage: Storage) -> Manifest:
    mount: Manifest = {"name": "store", "mountPath": names.PATH_STORE}
    return mount | ({"subPath": storage.sub_path} if storage.sub_path else {})


def _pod_spec(spec: VLLMWorkerPoolSpec, told: str) -> Manifest:
    volumes, mounts = _volumes(spec)
    container: Manifest = {
        "name": names.CONTAINER_WORKER,
        "image": spec.image,
        "imagePullPolicy": spec.image_pull_policy,
        "env": _env(spec, told),
        "ports": [
            {"name": names.PORT_NAME_SERVING, "containerPort": names.PORT_SERVING, "protocol": "TCP"},
            {"name": names.PORT_NAME_ADMIN, "containerPort": names.PORT_ADMIN, "protocol": "TCP"},
        ],
        "resources": _json(spec.resources),
        "volumeMounts": mounts,
        "securityContext": _security(spec),
        "terminationMessagePolicy": "FallbackToLogsOnError",
        # A second matters here: a thaw takes few of them. So the probe waits at the supervisor for most of its period,
        # and the kubelet, which asks for readiness at once when a container has started, knows within a 10th of one.
        "startupProbe": _probe("/startupz?wait=0.9", period=1, failures=startup_seconds(spec), timeout=2),
        "readinessProbe": _probe("/readyz", period=1, failures=2, timeout=2),
        "livenessProbe": _probe("/livez", period=10, failures=3, timeout=5),
    }
    pod: Manifest = {
        "containers": [container],
        "volumes": volumes,
        "restartPolicy": "Always",
        "terminationGracePeriodSeconds": spec.termination_grace_period_seconds,
        # A checkpoint is process memory, so no token may be in it, nor the addresses of this cluster's
        # services.
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
    }
    if spec.resource_claims:
        pod["resourceClaims"] = [_json(claim) for claim in spec.resource_claims]
    return pod


def _model_path(spec: VLLMWorkerPoolSpec) -> str | None:
    source = spec.model.source
    if source.claim is not None:
        return names.PATH_MODEL
    return source.image.path if source.image is not None else None


def _volumes(spec: VLLMWorkerPoolSpec) -> tuple[list[Manifest], list[Manifest]]:
    volumes: list[Manifest] = [
        {"name": "shm", "emptyDir": {"medium": "Memory", "sizeLimit": spec.shared_memory_size}},
        {"name": "tmp", "emptyDir": {}},
        {"name": "run", "emptyDir": {}},
    ]
    mounts: list[Manifest] = [
        {"name": "shm", "mountPath": "/dev/shm"},  # noqa: S108 the path is the kernel's
        {"name": "tmp", "mountPath": "/tmp"},  # noqa: S108 inside the container
        {"name": "run", "mountPath": names.PATH_RUN},
    ]
    storage, model = spec.checkpoint.storage, spec.model.source.claim
    kv = spec.kv_transfer.storage if spec.kv_transfer is not None else None
    by_claim: dict[str, str] = {}

    def mount(name: str, claim_name: str, path: str, sub_path: str, **more: bool) -> None:
        # A kubelet never gets two volumes of one pod ready that are the same claim: one volume, mounted twice.
        if claim_name not in by_claim:
            by_claim[claim_name] = name
            volumes.append(claim_volume(name, claim_name))
        entry: Manifest = {"name": by_claim[claim_name], "mountPath": path}
        mounts.append(entry | more | ({"subPath": sub_path} if sub_path else {}))

    if spec.checkpoint.policy != CheckpointPolicy.DISABLED and storage is not None:
        if storage.claim_name is not None:
            mount("store", storage.claim_name, names.PATH_STORE, storage.sub_path)
        elif storage.object_store is not None:
            limit = storage.object_store.size_limit
            volumes.append({"name": "store", "emptyDir": {} if limit is None else {"sizeLimit": limit}})
            mounts.append({"name": "store", "mountPath": names.PATH_STORE})
    if model is not None:
        mount("model", model.claim_name, names.PATH_MODEL, model.path, readOnly=True)
    if kv is not None and spec.kv_transfer is not None:
        mount("kv", kv.claim_name, spec.kv_transfer.path, kv.sub_path)
    return volumes, mounts


def _env(spec: VLLMWorkerPoolSpec, told: str) -> list[Manifest]:
    fields = (
        (names.ENV_POD_NAME, "metadata.name"),
        (names.ENV_POD_NAMESPACE, "metadata.namespace"),
        (names.ENV_POD_UID, "metadata.uid"),
        (names.ENV_POD_IP, "status.podIP"),
        (names.ENV_NODE_NAME, "spec.nodeName"),
    )
    return [
        {"name": names.ENV_CONFIG, "value": told},
        *({"name": name, "valueFrom": {"fieldRef": {"fieldPath": path}}} for name, path in fields),
        *_drain_token(spec),
        *(_secret(variable) for variable in spec.env if variable.value_from is not None),
        *_signing_key(spec),
        *_bucket_credentials(spec),
    ]


def _drain_token(spec: VLLMWorkerPoolSpec) -> list[Manifest]:
    if (token := spec.drain.token_secret) is None:
        return []
    return [{"name": names.ENV_ADMIN_TOKEN, "valueFrom": {"secretKeyRef": _json(token)}}]


def _signing_key(spec: VLLMWorkerPoolSpec) -> list[Manifest]:
    key = spec.checkpoint.signing_key
    if key is None:
        return []
    return [{"name": names.ENV_SIGNING_KEY, "valueFrom": {"secretKeyRef": {"name": key.name, "key": key.key}}}]


def _bucket_credentials(spec: VLLMWorkerPoolSpec) -> list[Manifest]:
    storage = spec.checkpoint.storage
    if spec.checkpoint.policy == CheckpointPolicy.DISABLED or storage is None or storage.object_store is None:
        return []
    return object_store_keys(storage.object_store)


def _secret(variable: EnvVar) -> Manifest:
    return {"name": variable.name, "valueFrom": _json(variable.value_from)}


def _security(spec: VLLMWorkerPoolSpec) -> Manifest:
    if spec.checkpoint.policy == CheckpointPolicy.DISABLED:
        return {}
    return {
        "runAsUser": 0,
        "capabilities": {"add": list(CAPABILITIES)},
        "seccompProfile": {"type": "Unconfined"},
        "appArmorProfile": {"type": "Unconfined"},
    }


def _probe(path: str, *, period: int, failures: int, timeout: int) -> Manifest:
    return {
        "httpGet": {"path": path, "port": names.PORT_NAME_ADMIN},
        "periodSeconds": period,
        "failureThreshold": failures,
        "timeoutSeconds": timeout,
    }


def _json(model: Model | None) -> dict[str, Any]:
    """As Kubernetes writes it, less what is at its default."""
    return {} if model is None else model.model_dump(mode="json", by_alias=True, exclude_defaults=True)
