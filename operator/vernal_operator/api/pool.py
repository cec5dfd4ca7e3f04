"""VLLMWorkerPool: a pool of vLLM workers that thaw a checkpoint instead of starting."""

from typing import Annotated, ClassVar, Literal

from pydantic import Field
from vernal_contract.config import CheckpointPolicy

from vernal_operator.api.autoscaling import AutoscalingSpec
from vernal_operator.api.checkpointing import CheckpointSpec
from vernal_operator.api.common import CountOrPercent, Model, Quantity, Rule, Seconds, extension, is_zero, nested
from vernal_operator.api.engine_args import EngineArgs
from vernal_operator.api.env import EnvVar
from vernal_operator.api.kv_transfer import KVTransferSpec
from vernal_operator.api.references import KeyRef
from vernal_operator.api.resources import ResourceClaim, Resources
from vernal_operator.api.source import ModelSpec
from vernal_operator.api.template import PodTemplate

DRAIN_RESERVE_SECONDS = 10
"""Part of the grace period that no request may use: aborting, KV transfers, reaping, exit."""


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
