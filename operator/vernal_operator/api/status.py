"""What the operator reports: status of both kinds. Written by the plan as plain JSON; these models give its
schema.
"""

from typing import Annotated, Literal

from pydantic import AwareDatetime, Field

from vernal_operator.api.common import Model, extension


class Condition(Model):
    """One aspect of the object's state."""

    type: str = Field(
        max_length=316,
        pattern=r"^([a-z0-9]([-a-z0-9.]*[a-z0-9])?/)?[A-Za-z0-9][-A-Za-z0-9_.]*$",
        description="Name of the aspect.",
    )
    status: Literal["True", "False", "Unknown"] = Field(description="Whether it holds.")
    observed_generation: int | None = Field(default=None, ge=0, description="metadata.generation that this is about.")
    last_transition_time: AwareDatetime = Field(description="When status last changed.")
    reason: str = Field(
        min_length=1,
        max_length=1024,
        pattern="^[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?$",
        description="Why, in one word.",
    )
    message: str = Field(max_length=32768, description="Why, in a sentence, and what to do if something is wrong.")


Conditions = Annotated[list[Condition], extension(list_type="map", list_map_keys=["type"])]


class CheckpointReference(Model):
    name: str = Field(description="Name of the VLLMCheckpoint.")
    identity: str = Field(description="Its artifact identity.")
    revision: str = Field(description="Revision of the pool whose workers reported it.")
    generation: str | None = Field(default=None, description="Generation of the artifact.")


class PoolCheckpoint(Model):
    """One of a pool's checkpoints: pools over unlike nodes have one for each kind of node."""

    name: str = Field(description="Name of the VLLMCheckpoint.")
    identity: str = Field(description="Its artifact identity.")
    host_tuple: str = Field(description="Its host tuple.")
    revision: str = Field(description="Revision of the pool whose workers reported it last.")
    generation: str | None = Field(default=None, description="Generation of the artifact.")
    nodes: list[str] = Field(
        default=[],
        max_length=10,
        description="Nodes whose last pod used it, ten at most: while one of them exists, and no pod there has used "
        "another, it is kept.",
    )


class Renewal(Model):
    """A new checkpoint that was asked for by the annotation vernal.dev/renew-checkpoint."""

    request: str = Field(description="The annotation's text.")
    replaces: list[str] = Field(default=[], description="Generations that pods made from then on do not thaw.")
    outcome: Literal["Pending", "Renewed", "Failed"] = Field(description="What has become of it.")
    message: str = Field(default="", max_length=32768, description="The same in a sentence.")


class RejectedRevision(Model):
    revision: str = Field(description="The revision. A spec of another revision ends this.")
    time: AwareDatetime = Field(description="When it was given up.")
    message: str = Field(max_length=32768, description="What was wrong with its pods, and what to do.")


class FailedPods(Model):
    revision: str = Field(description="Revision of the pods.")
    count: int = Field(description="How many times in a row a pod failed that was made after the one before had.")
    last_time: AwareDatetime = Field(description="When the last one was found.")
    last_created: AwareDatetime | None = Field(
        default=None,
        description="When the youngest pod that was there then had been made, by the API server's clock. A failed pod "
        "that was made later counts anew.",
    )


class VLLMWorkerPoolStatus(Model):
    """What the operator saw when it last looked."""

    observed_generation: int | None = Field(default=None, description="metadata.generation that this is about.")
    update_revision: str | None = Field(default=None, description="Revision that the spec asks for.")
    current_revision: str | None = Field(
        default=None,
        description="Revision that proved itself last, when all pods were of it and available. Until updateRevision "
        "is proven, and where its pods do not become available, missing pods are made of it; the pool goes back to it "
        "if updateRevision is rejected.",
    )
    proving_since: AwareDatetime | None = Field(
        default=None,
        description="Since when no further pod of updateRevision has become available, the first, which is its proof, "
        "or another one, though one is wanted; spec.rollout.progressDeadlineSeconds runs from then.",
    )
    rejected: RejectedRevision | None = Field(
        default=None, description="updateRevision, if its roll made no progress in time and the pool went back."
    )
    failed_pods: Annotated[list[FailedPods], extension(list_type="map", list_map_keys=["revision"])] = Field(
        default=[], description="Failed pods by revision; the more in a row, the later the next pod is made."
    )
    selector: str | None = Field(default=None, description="Label selector of the pool's pods, for autoscalers.")
    replicas: int = Field(default=0, description="Pods that are neither terminating nor failed.")
    ready_replicas: int = Field(default=0, description="Those that are ready.")
    updated_replicas: int = Field(default=0, description="Those of updateRevision.")
    updated_available_replicas: int | None = Field(
        default=None,
        description="In a roll: those of updateRevision that have been ready for spec.rollout.minReadySeconds. When "
        "they become more, it makes progress.",
    )
    restored_replicas: int = Field(default=0, description="Ready pods that thawed a checkpoint.")
    cold_started_replicas: int = Field(default=0, description="Ready pods that started the slow way.")
    checkpoint: CheckpointReference | None = Field(default=None, description="The checkpoint that new pods thaw.")
    checkpoints: Annotated[list[PoolCheckpoint], extension(list_type="atomic")] = Field(
        default=[], max_length=16, description="All checkpoints that pods of the pool may thaw, by kind of node."
    )
    renewal: Renewal | None = Field(default=None, description="The new checkpoint that was asked for last.")
    conditions: Conditions = Field(
        default=[],
        description="Ready, CheckpointReady, Progressing and Degraded, each with a one-word reason.",
    )


class RetentionStatus(Model):
    retain: bool = Field(description="It is kept until someone deletes it.")
    unused_seconds: int = Field(description="How long it is kept after the last pool let go of it. Seconds.")
    max_unused: int | None = Field(default=None, description="How many unused ones of its model and claim are kept.")


class CachingNode(Model):
    name: str = Field(description="Name of the node.")
    cached: bool = Field(description="Its cache had all files of this generation.")
    reason: str = Field(
        description="What a worker told of the node's cache last: Hit, Filled; Miss, Damaged, Unavailable, Full, "
        "Failed; Evicted, if files went for those of other checkpoints. Or a Job that fetched it: Fetched, "
        "FetchedEvicting, if others' files went for it, Full, Failed."
    )
    time: AwareDatetime = Field(description="When it was so, by the node's clock.")


class Prefetching(Model):
    replicas: int = Field(description="Pods that the pools asked for together that make pods of it.")
    nodes: list[str] = Field(
        max_length=200,
        description="Nodes that were told to fetch it since these became more, or the generation another, 200 at most.",
    )


class VLLMCheckpointStatus(Model):
    """What workers said about the checkpoint."""

    observed_generation: int | None = Field(default=None, description="metadata.generation that this is about.")
    generation: str | None = Field(default=None, description="Generation of the artifact that workers thaw now.")
    generation_time: AwareDatetime | None = Field(
        default=None, description="Start of the worker that made generation known; one that started before knows less."
    )
    size_bytes: int | None = Field(default=None, description="Size of the artifact. Bytes.")
    size: str | None = Field(default=None, description="sizeBytes for people, e.g. 14.2GiB.")
    shared_bytes: int | None = Field(
        default=None,
        description="How much of it other artifacts have too, when a worker looked last: its removal gives back less. "
        "Bytes.",
    )
    files: int | None = Field(default=None, description="Number of its files.")
    timings: dict[str, float] = Field(
        default={},
        description="What the worker that made it, and the one that thawed it last, spent. Seconds by phase.",
    )
    restores: int = Field(default=0, description="Workers that thawed it, all generations.")
    restore_failures: int = Field(default=0, description="Thaws that failed, all generations.")
    generation_failures: int = Field(default=0, description="Thaws that failed, of the current generation.")
    last_used_time: AwareDatetime | None = Field(default=None, description="When a worker last froze or thawed it.")
    used_by: list[str] = Field(default=[], description="Pools that refer to it.")
    unused_since: AwareDatetime | None = Field(default=None, description="Since when no pool refers to it.")
    retention: RetentionStatus | None = Field(
        default=None, description="The longest retention among the pools that use it, or last used it."
    )
    kept_for: list[str] = Field(
        default=[],
        description="Nodes on which pods of a pool could thaw it, for which it is kept though its time is up.",
    )
    warm_nodes: int | None = Field(
        default=None,
        description="How many of nodes had its files in their cache, as last known. Only where nodes have caches.",
    )
    nodes: Annotated[list[CachingNode], extension(list_type="map", list_map_keys=["name"])] | None = Field(
        default=None,
        max_length=200,
        description="Nodes of whose cache a worker told something about it, 200 at most: those that have it first.",
    )
    prefetch: Prefetching | None = Field(
        default=None, description="What was begun to have it on nodes before pods are there: nodeCache of the chart."
    )
    counted: list[str] = Field(
        default=[],
        description="Starts of live workers that restores and restoreFailures count already: pod uid/start, or "
        "pod uid/restarts.",
    )
    conditions: Conditions = Field(
        default=[], description="Ready, Failed and Quarantined, each with a one-word reason."
    )
