"""VLLMWorkerPool: a pool of vLLM workers that thaw a checkpoint instead of starting."""

import json
import re
from collections.abc import Callable
from enum import StrEnum
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field
from vernal_contract import names
from vernal_contract.config import CheckpointPolicy, KVTransferConfig, Verify, WeightsPlacement
from vernal_contract.variables import KEPT, NEVER, TUNING, shapes

from vernal_operator.api.autoscaling import AutoscalingSpec
from vernal_operator.api.common import (
    CountOrPercent,
    FreeForm,
    Model,
    Quantity,
    Rule,
    Seconds,
    extension,
    is_zero,
    nested,
)
from vernal_operator.api.engine_args import EngineArgs
from vernal_operator.api.overlay import LOADED, MOUNT_SAID, taken, taken_cel
from vernal_operator.api.template import PodTemplate

DRAIN_RESERVE_SECONDS = 10
"""Part of the grace period that no request may use: aborting, KV transfers, reaping, exit."""


class Startup(StrEnum):
    """What pods 2..N do while there is no checkpoint."""

    IMMEDIATE = "Immediate"
    WAIT_FOR_CHECKPOINT = "WaitForCheckpoint"


class RetentionPolicy(StrEnum):
    DELETE = "Delete"
    RETAIN = "Retain"


class HubSource(Model):
    """vLLM downloads the model, or finds it where the image keeps it."""


def _inside(path: str) -> bool:
    return not path.startswith("/") and ".." not in path.split("/")


def _inside_rule(field: str, get: Callable[[Any], str]) -> Rule:
    return Rule(
        f"!self.{field}.startsWith('/') && !self.{field}.split('/').exists(part, part == '..')",
        lambda self: _inside(get(self)),
        f"{field} must be relative to the claim's root, without '..'",
        f".{field}",
    )


_OWN_NAME = "^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$"


def _own_rule(field: str, kind: str, get: Callable[[Any], str | None], *, optional: bool = False) -> Rule:
    """Of a name: what is not one could be taken for a way to somewhere else."""
    return Rule(
        (f"!has(self.{field}) || " if optional else "") + f"self.{field}.matches('{_OWN_NAME}')",
        lambda self: (name := get(self)) is None or re.search(_OWN_NAME, name) is not None,
        f"{field} must be the name of a {kind} in the pool's own namespace: lower-case letters, digits, '-' and '.'",
        f".{field}",
    )


class ClaimSource(Model):
    """A PersistentVolumeClaim that holds the model, mounted read-only."""

    rules: ClassVar[tuple[Rule, ...]] = (
        _inside_rule("path", lambda self: self.path),
        _own_rule("claimName", "PersistentVolumeClaim", lambda self: self.claim_name),
    )
    claim_name: str = Field(
        min_length=1, max_length=253, description="Name of a PersistentVolumeClaim in the pool's namespace."
    )
    path: str = Field(
        default="",
        max_length=1024,
        description="Directory of the model inside the claim; its root by default.",
    )


class ImageSource(Model):
    """A directory of the worker image that holds the model."""

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "!self.path.split('/').exists(part, part == '..')",
            lambda self: ".." not in self.path.split("/"),
            "path must be without '..'",
            ".path",
        ),
    )
    path: str = Field(pattern="^/", max_length=1024, description="Absolute path of the model's directory in the image.")


class ModelSource(Model):
    """Exactly one of hub, claim and image."""

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "[has(self.hub), has(self.claim), has(self.image)].filter(x, x).size() == 1",
            lambda self: [self.hub, self.claim, self.image].count(None) == 2,
            "spec.model.source needs exactly one of hub, claim and image",
        ),
    )
    hub: HubSource | None = Field(default=None, description="vLLM downloads spec.model.name itself.")
    claim: ClaimSource | None = Field(
        default=None, description="The model lies on a PersistentVolumeClaim, which is mounted read-only."
    )
    image: ImageSource | None = Field(default=None, description="The model lies in the worker image.")


class ModelSpec(Model):
    name: str = Field(
        min_length=1, description="Name of the model, as vLLM's --model takes it and as requests name it."
    )
    revision: str | None = Field(
        default=None, description="Commit or tag of the model. Part of the checkpoint's identity: pin it."
    )
    source: ModelSource = nested("Where the model's files come from.", {"hub": {}})


class KeyRef(Model):
    rules: ClassVar[tuple[Rule, ...]] = (_own_rule("name", "Secret or ConfigMap", lambda self: self.name),)
    name: str = Field(min_length=1, max_length=253, description="Name of the object in the pool's namespace.")
    key: str = Field(min_length=1, description="Key inside the object.")
    optional: bool = Field(default=False, description="Start without the variable if the object or key is missing.")


class SecretKey(Model):
    rules: ClassVar[tuple[Rule, ...]] = (_own_rule("name", "Secret", lambda self: self.name),)
    name: str = Field(min_length=1, max_length=253, description="Name of the Secret in the pool's namespace.")
    key: str = Field(min_length=1, description="Key inside the Secret.")


class EnvSource(Model):
    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "has(self.secretKeyRef) != has(self.configMapKeyRef)",
            lambda self: (self.secret_key_ref is None) != (self.config_map_key_ref is None),
            "spec.env[].valueFrom needs exactly one of secretKeyRef and configMapKeyRef",
        ),
    )
    secret_key_ref: KeyRef | None = Field(default=None, description="A key of a Secret.")
    config_map_key_ref: KeyRef | None = Field(default=None, description="A key of a ConfigMap.")


_SHAPES = (
    f"(self.name.matches('^({'|'.join(TUNING)})') || self.name in {json.dumps(sorted(KEPT))}) "
    f"&& !(self.name in {json.dumps(sorted(NEVER))})"
)
"""`shapes` of an environment variable, in CEL."""


class EnvVar(Model):
    """A variable of the engine's environment."""

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "has(self.value) != has(self.valueFrom)",
            lambda self: (self.value is None) != (self.value_from is None),
            "spec.env[] needs exactly one of value and valueFrom",
        ),
        Rule(
            "!self.name.startsWith('VERNAL_')",
            lambda self: not self.name.startswith("VERNAL_"),
            "spec.env[].name must not start with VERNAL_, which Vernal uses",
            ".name",
        ),
        Rule(
            f"!has(self.valueFrom) || !self.name.matches('{LOADED}')",
            lambda self: self.value_from is None or re.search(LOADED, self.name) is None,
            "spec.env[].name is one that would choose what process 1 runs, which gets what has valueFrom: use value",
            ".name",
        ),
        Rule(
            f"!has(self.valueFrom) || !({_SHAPES})",
            lambda self: self.value_from is None or not shapes(self.name),
            "spec.env[].valueFrom cannot be set for a name that shapes the engine (such as "
            f"{', '.join(f'{prefix}*' for prefix in TUNING)}): it would get the value only after the thaw, and a "
            "checkpoint would not be told apart by it: use value",
            ".valueFrom",
            "FieldValueForbidden",
        ),
    )
    name: str = Field(pattern="^[A-Za-z_][A-Za-z0-9_]*$", max_length=253, description="Name of the variable.")
    value: str | None = Field(
        default=None,
        description="Literal value. It counts towards the checkpoint's identity and is in the frozen "
        "process: never write a secret here.",
    )
    value_from: EnvSource | None = Field(
        default=None,
        description="Take the value from a Secret or a ConfigMap. It reaches the engine after the thaw and "
        "is never in a checkpoint, so not for what shapes the engine, such as VLLM_* and NCCL_* (but VLLM_API_KEY "
        "and HF_TOKEN).",
    )


class ResourceClaimUse(Model):
    name: str = Field(min_length=1, description="Name of an entry of spec.resourceClaims.")
    request: str | None = Field(default=None, description="One request of that claim; all of them by default.")


class Resources(Model):
    """Compute resources of the worker's container, as in a Pod."""

    limits: dict[str, Quantity] = Field(default={}, description="Upper bounds, e.g. nvidia.com/gpu: 1.")
    requests: dict[str, Quantity] = Field(default={}, description="What the scheduler sets aside.")
    claims: Annotated[list[ResourceClaimUse], extension(list_type="map", list_map_keys=["name"])] = Field(
        default=[],
        description="Entries of spec.resourceClaims that the container uses (dynamic resource allocation).",
    )


class ResourceClaim(Model):
    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "has(self.resourceClaimName) != has(self.resourceClaimTemplateName)",
            lambda self: (self.resource_claim_name is None) != (self.resource_claim_template_name is None),
            "spec.resourceClaims[] needs exactly one of resourceClaimName and resourceClaimTemplateName",
        ),
    )
    name: str = Field(min_length=1, max_length=63, description="Name that spec.resources.claims refers to.")
    resource_claim_name: str | None = Field(default=None, description="A ResourceClaim that all pods share.")
    resource_claim_template_name: str | None = Field(
        default=None, description="A ResourceClaimTemplate: each pod gets a claim of its own."
    )


class ClaimStorage(Model):
    """A PersistentVolumeClaim. Host paths are not offered on purpose: who makes a pool must not get at the
    node.
    """

    rules: ClassVar[tuple[Rule, ...]] = (
        _inside_rule("subPath", lambda self: self.sub_path),
        _own_rule("claimName", "PersistentVolumeClaim", lambda self: self.claim_name),
    )
    claim_name: str = Field(
        min_length=1,
        max_length=253,
        description="Name of a PersistentVolumeClaim in the pool's namespace. ReadWriteMany lets every node thaw.",
    )
    sub_path: str = Field(default="", max_length=1024, description="Directory inside the claim; its root by default.")


class SecretRef(Model):
    rules: ClassVar[tuple[Rule, ...]] = (_own_rule("name", "Secret", lambda self: self.name),)
    name: str = Field(min_length=1, max_length=253, description="Name of the Secret in the pool's namespace.")


class ObjectStore(Model):
    """A bucket of S3, or of a server that speaks it."""

    url: str = Field(
        pattern="^s3://[a-z0-9][a-z0-9.-]{1,61}[a-z0-9](/[A-Za-z0-9_][A-Za-z0-9._-]*)*$",
        max_length=1024,
        description="s3://BUCKET or s3://BUCKET/PREFIX. Pools that name the same share its checkpoints, over clusters "
        "too.",
    )
    endpoint: str | None = Field(
        default=None,
        pattern="^https?://[^ /@?#]+(/[^ @?#]*)?$",
        max_length=1024,
        description="URL of a server that is not AWS, e.g. http://minio.storage:9000.",
    )
    region: str | None = Field(
        default=None,
        pattern="^[A-Za-z0-9-]+$",
        max_length=63,
        description="The bucket's region; us-east-1 unless set.",
    )
    credentials_secret: SecretRef = Field(
        description="A Secret with the keys AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and, if there is one, "
        "AWS_SESSION_TOKEN. They must allow to get, put, list and delete objects below url. Process 1 of a worker and "
        "the janitor Job get them: they are not in the engine, and in no checkpoint.",
    )
    size_limit: Quantity | None = Field(
        default=None,
        description="Size limit of a pod's own copy of its checkpoint, e.g. 60Gi: an emptyDir on the node's disk. The "
        "kubelet evicts a pod that exceeds it. None by default.",
    )


class Storage(Model):
    """A PersistentVolumeClaim or a bucket, exactly one."""

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "has(self.claimName) != has(self.objectStore)",
            lambda self: (self.claim_name is None) != (self.object_store is None),
            "storage of a checkpoint needs exactly one of claimName and objectStore",
        ),
        Rule(
            "!has(self.objectStore) || self.subPath == ''",
            lambda self: self.object_store is None or not self.sub_path,
            "subPath is of a claim: with objectStore write it behind the bucket in objectStore.url",
            ".subPath",
            "FieldValueForbidden",
        ),
        _inside_rule("subPath", lambda self: self.sub_path),
        _own_rule("claimName", "PersistentVolumeClaim", lambda self: self.claim_name, optional=True),
    )
    claim_name: str | None = Field(
        default=None,
        min_length=1,
        max_length=253,
        description="Name of a PersistentVolumeClaim in the pool's namespace. ReadWriteMany lets every node thaw.",
    )
    sub_path: str = Field(default="", max_length=1024, description="Directory inside the claim; its root by default.")
    object_store: ObjectStore | None = Field(
        default=None, description="A bucket instead of a claim: each pod brings what it thaws to its node's disk."
    )

    @property
    def place(self) -> tuple[str, ...]:
        """Equal for storage that has the same checkpoints, whoever may read it how."""
        if self.object_store is None:
            return (self.claim_name or "", self.sub_path)
        return (self.object_store.url, self.object_store.endpoint or "")

    @property
    def called(self) -> str:
        """For people."""
        return f"claim {self.claim_name}" if self.object_store is None else f"bucket {self.object_store.url}"


class Retention(Model):
    policy: RetentionPolicy = Field(
        default=RetentionPolicy.DELETE,
        description="Delete: a checkpoint that no pool uses is deleted, with its files, after unusedSeconds. "
        "Retain: it stays until someone deletes it.",
    )
    unused_seconds: Seconds = Field(
        default=86400, ge=0, description="How long a checkpoint that no pool uses is kept. Seconds."
    )
    max_unused: int | None = Field(
        default=None,
        ge=0,
        description="How many checkpoints of one model on one claim and path are kept while no pool uses them: of more "
        "than these, those that have been unused for longest go. By default only time counts. Not with policy Retain.",
    )


class CheckpointSpec(Model):
    """How the pool freezes its first worker and thaws the others."""

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "!has(self.signingKey) || self.verify == 'Full'",
            lambda self: self.signing_key is None or self.verify is Verify.FULL,
            "spec.checkpoint.verify must be Full with signingKey: what is not read is not proven",
        ),
    )
    policy: CheckpointPolicy = Field(
        default=CheckpointPolicy.AUTO,
        description="Auto: thaw if a checkpoint fits, else start cold and make one. Required: a thaw that "
        "fails stops the worker instead of starting cold. Disabled: plain vLLM, no store, no added "
        "capabilities.",
    )
    startup: Startup = Field(
        default=Startup.IMMEDIATE,
        description="Immediate: all pods start at once, cold as long as there is no checkpoint. "
        "WaitForCheckpoint: the second to last pods are made when the first one's checkpoint is published, "
        "or when it failed to make one.",
    )
    storage: Storage | None = Field(
        default=None, description="Where checkpoints are kept. Required unless policy is Disabled."
    )
    weights: WeightsPlacement = Field(
        default=WeightsPlacement.EXTERNAL,
        description="External: weights in a blob of their own, streamed to the GPU after the thaw. InImage: "
        "weights stay in process memory and so in the image (always so on a CPU).",
    )
    retention: Retention = nested("When checkpoints that nothing uses are deleted.")
    verify: Verify = Field(
        default=Verify.FULL,
        description="Full: every byte is checked against its digest before the worker is ready. Sizes: "
        "presence and sizes only, for storage that checks its own bytes.",
    )
    signing_key: SecretKey | None = Field(
        default=None,
        description="A key of a Secret that checkpoints are signed with (HMAC-SHA256): workers thaw only what a worker "
        "with the same key has made. Without it, whoever can write to the storage can run code in each pod that thaws "
        "from it.",
    )
    restore_attempts: int = Field(
        default=3,
        ge=1,
        le=100,
        description="Failed thaws that speak against one checkpoint before it is quarantined and made anew. Storage "
        "that was gone and GPUs that were full do not count; what may be the node's fault counts once a node.",
    )
    freeze_timeout_seconds: Seconds = Field(
        default=600,
        ge=1,
        description="Longest time for each step of freezing and publishing; the worker then serves without. A big "
        "engine gets more (120 s and 10 s for each GB of its memory), out of what the cold start left of "
        "`startupTimeoutSeconds`. Seconds.",
    )
    warm_up_seconds: Seconds = Field(
        default=120,
        ge=0,
        description="Longest time, before the freeze, for one request of each kind (logprobs, grammars, penalties, "
        "adapters, pooling), so that what they compile is in the checkpoint; 0 for none. Seconds.",
    )
    thaw_timeout_seconds: Seconds | None = Field(
        default=None,
        ge=1,
        description="Longest time to thaw; the worker then starts cold. Seconds. Unset: two minutes, and ten seconds "
        "more for each GB of the checkpoint; sooner if the rate at which the storage delivers cannot make it.",
    )
    gpu_memory_wait_seconds: Seconds = Field(
        default=60,
        ge=0,
        description="How long a start waits for GPU memory that another process holds; then the container exits with "
        "GpuMemoryInsufficient. Seconds.",
    )


class DrainSpec(Model):
    propagation_seconds: Seconds = Field(
        default=5,
        ge=0,
        description="How long a worker still accepts requests after SIGTERM, while endpoints and load "
        "balancers take it out. Seconds.",
    )
    timeout_seconds: Seconds = Field(
        default=90, ge=0, description="How long requests in flight may still run after that. Seconds."
    )
    token_secret: KeyRef | None = Field(
        default=None,
        description="Key of a Secret: what POST /drain on a worker's admin port must bring as bearer token. Without, "
        "that is taken from inside the pod only.",
    )


class RolloutSpec(Model):
    max_surge: CountOrPercent = Field(
        default=1, description="Pods above replicas that a roll may make; a percentage is rounded up."
    )
    max_unavailable: CountOrPercent = Field(
        default=0,
        description="Ready pods below replicas that a roll may leave; a percentage is rounded down.",
    )
    min_ready_seconds: Seconds = Field(
        default=0,
        ge=0,
        description="How long a pod must have been ready before a roll counts on it: until then the new revision is "
        "not proven, and no other pod is replaced. Seconds.",
    )
    progress_deadline_seconds: Seconds | None = Field(
        default=None,
        ge=1,
        description="How long a roll may make no progress: until the first pod of the new revision has been ready for "
        "minReadySeconds, and from each further one to the next. The revision is then rejected, and the pool goes back "
        "to the one before. By default as long as a worker may take to start "
        "at all (startupTimeoutSeconds and, with checkpoints, what a freeze, a thaw and a wait for GPU memory take) "
        "plus minReadySeconds. Seconds.",
    )
    paused: bool = Field(
        default=False,
        description="A roll stands still: no pod is replaced, and missing ones are made of the revision before. "
        "Changes of scale go on.",
    )
    revision_history_limit: int = Field(
        default=10, ge=0, description="ControllerRevisions to keep beside those that are in use."
    )


class DisruptionSpec(Model):
    max_unavailable: CountOrPercent = Field(
        default=1, description="Pods that voluntary disruptions (node drains) may take at once."
    )


class LoadFailurePolicy(StrEnum):
    RECOMPUTE = "Recompute"
    FAIL = "Fail"


OWN_CONNECTOR = KVTransferConfig().connector


class KVTransferSpec(Model):
    """Shared KV cache."""

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            f"!{taken_cel('self.path')} && self.path != '/tmp'",
            lambda self: not taken(self.path) and self.path != "/tmp",  # noqa: S108 inside the pod
            "spec.kvTransfer.path must be absolute, in its shortest form, without '..', and none that "
            f"{MOUNT_SAID}, or leave it out",
            ".path",
        ),
        Rule(
            f"!has(self.sizeLimit) || self.connector == '{OWN_CONNECTOR}'",
            lambda self: self.size_limit is None or self.connector == OWN_CONNECTOR,
            f"spec.kvTransfer.sizeLimit is only for the connector {OWN_CONNECTOR}",
            ".sizeLimit",
            "FieldValueForbidden",
        ),
        Rule(
            "!has(self.sizeLimit) || self.role != 'kv_consumer'",
            lambda self: self.size_limit is None or self.role != "kv_consumer",
            "spec.kvTransfer.sizeLimit does nothing with the role kv_consumer, which saves nothing: set it on the "
            "pool that saves",
            ".sizeLimit",
            "FieldValueForbidden",
        ),
    )
    connector: str = Field(
        default=OWN_CONNECTOR, min_length=1, description="Name of the KV connector, as vLLM's kv_connector."
    )
    role: Literal["kv_producer", "kv_consumer", "kv_both"] = Field(
        default="kv_both",
        description="What this pool does, as vLLM's kv_role: kv_producer saves blocks (prefill), kv_consumer loads "
        "them (decode), kv_both does both.",
    )
    load_failure_policy: LoadFailurePolicy = Field(
        default=LoadFailurePolicy.RECOMPUTE,
        description="What becomes of a request whose KV block cannot be loaded. Recompute: the block is computed. "
        "Fail: the request ends with an error.",
    )
    storage: ClaimStorage | None = Field(
        default=None,
        description="Where blocks are kept: mounted at path. Without it, path must be on a volume of podTemplate.",
    )
    path: str = Field(
        default=names.PATH_KV, min_length=1, max_length=1024, description="Directory of the blocks in the pod."
    )
    size_limit: Quantity | None = Field(
        default=None,
        description="Size of the directory, e.g. 500Gi, at which the blocks that were used least recently go. "
        "Without it they go when the volume is full.",
    )
    options: FreeForm = Field(
        default={}, description="More entries of vLLM's kv_connector_extra_config; docs/kv.md lists the connector's."
    )


class VLLMWorkerPoolSpec(Model):
    """The pool that is wanted."""

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "self.drain.propagationSeconds + self.drain.timeoutSeconds + "
            f"{DRAIN_RESERVE_SECONDS} <= self.terminationGracePeriodSeconds",
            lambda self: (
                self.drain.propagation_seconds + self.drain.timeout_seconds + DRAIN_RESERVE_SECONDS
                <= self.termination_grace_period_seconds
            ),
            "spec.drain.propagationSeconds + spec.drain.timeoutSeconds + "
            f"{DRAIN_RESERVE_SECONDS} (to abort and exit) must fit into spec.terminationGracePeriodSeconds",
            ".drain",
        ),
        # Rules about objects that have a default stand here: where they are checked, all defaults are filled in.
        Rule(
            "self.checkpoint.policy == 'Disabled' || has(self.checkpoint.storage)",
            lambda self: self.checkpoint.policy == CheckpointPolicy.DISABLED or self.checkpoint.storage is not None,
            "spec.checkpoint.storage is required unless spec.checkpoint.policy is Disabled",
            ".checkpoint.storage",
            "FieldValueRequired",
        ),
        Rule(
            "!((self.rollout.maxSurge == 0 || self.rollout.maxSurge == '0%') && "
            "(self.rollout.maxUnavailable == 0 || self.rollout.maxUnavailable == '0%'))",
            lambda self: not (is_zero(self.rollout.max_surge) and is_zero(self.rollout.max_unavailable)),
            "spec.rollout.maxSurge and spec.rollout.maxUnavailable must not both be 0",
            ".rollout",
        ),
        Rule(
            "!has(self.rollout.progressDeadlineSeconds) || "
            "self.rollout.progressDeadlineSeconds > self.rollout.minReadySeconds",
            lambda self: (
                self.rollout.progress_deadline_seconds is None
                or self.rollout.progress_deadline_seconds > self.rollout.min_ready_seconds
            ),
            "spec.rollout.progressDeadlineSeconds must be greater than spec.rollout.minReadySeconds",
            ".rollout.progressDeadlineSeconds",
        ),
        Rule(
            "!has(self.kvTransfer) || !has(self.kvTransfer.storage) || !has(self.checkpoint.storage) || "
            "!has(self.checkpoint.storage.claimName) || "
            "self.kvTransfer.storage.claimName != self.checkpoint.storage.claimName || "
            "self.kvTransfer.storage.subPath != self.checkpoint.storage.subPath",
            lambda self: (
                self.kv_transfer is None
                or self.kv_transfer.storage is None
                or self.checkpoint.storage is None
                or (self.kv_transfer.storage.claim_name, self.kv_transfer.storage.sub_path)
                != (self.checkpoint.storage.claim_name, self.checkpoint.storage.sub_path)
            ),
            "spec.kvTransfer.storage and spec.checkpoint.storage must not be the same directory: set another subPath",
            ".kvTransfer.storage",
        ),
    )
    replicas: int = Field(
        default=1,
        ge=0,
        description="How many workers. Leave it out where an autoscaler sets it through /scale, or each apply of the "
        "manifest sets it back. With autoscaling.minReplicas 0 the operator sets it to 0 when the pool has been idle "
        "for autoscaling.idleSeconds, and the waker to 1 again, both through /scale; else nothing of Vernal writes it.",
    )
    image: str = Field(
        min_length=1, description="Worker image of Vernal's release. Its digest is part of the identity."
    )
    image_pull_policy: Literal["Always", "IfNotPresent", "Never"] = Field(
        default="IfNotPresent", description="When the kubelet pulls the image."
    )
    model: ModelSpec = Field(description="Which model the workers serve.")
    engine_args: EngineArgs = Field(
        default={},
        description="Arguments of vLLM's AsyncEngineArgs by name (snake_case or kebab-case), e.g. "
        "max_model_len: 8192. They count towards the checkpoint's identity.",
    )
    env: Annotated[list[EnvVar], extension(list_type="map", list_map_keys=["name"])] = Field(
        default=[], max_length=256, description="Environment of the engine."
    )
    resources: Resources = nested("Compute resources of the worker's container.")
    resource_claims: Annotated[list[ResourceClaim], extension(list_type="map", list_map_keys=["name"])] = Field(
        default=[],
        max_length=32,
        description="Devices by dynamic resource allocation, instead of or beside resources.",
    )
    shared_memory_size: Quantity = Field(
        default="8Gi",
        description="Size limit of /dev/shm. What is used counts towards the container's memory.",
    )
    checkpoint: CheckpointSpec = nested("How the pool freezes its first worker and thaws the others.")
    drain: DrainSpec = nested("How a worker ends without losing requests.")
    termination_grace_period_seconds: Seconds = Field(
        default=120, ge=1, description="From SIGTERM to SIGKILL. The drain must fit in. Seconds."
    )
    startup_timeout_seconds: Seconds = Field(
        default=1800,
        ge=1,
        description="Longest cold start; the kubelet then restarts the container. Seconds.",
    )
    keep_alive_seconds: Seconds = Field(
        default=120,
        ge=1,
        description="How long a worker keeps an HTTP connection without a request. Longer than the proxies and clients "
        "in front of it keep theirs, or they send requests to connections that are being closed. Seconds.",
    )
    max_body_size: Quantity | None = Field(
        default=None,
        description="The largest body of a request that a worker reads, with the media in it, 256Mi if it is left out; "
        "a larger one is answered with 413. It is in memory as a whole, several times while it is parsed.",
    )
    rollout: RolloutSpec = nested("How pods of an old revision are replaced.")
    autoscaling: AutoscalingSpec | None = Field(
        default=None,
        description="If set, something else than people sets replicas: a HorizontalPodAutoscaler (autoscaling/v2) that "
        "the operator keeps for the pool, or another autoscaler; and the pool may go to zero.",
    )
    disruption_budget: DisruptionSpec = nested("The pool's PodDisruptionBudget.")
    kv_transfer: KVTransferSpec | None = Field(default=None, description="Shared KV cache; none by default.")
    pod_template: PodTemplate = nested("An overlay for all that the pool has no field for.")
