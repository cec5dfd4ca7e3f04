"""What a plan reads (`Snapshot`, `CheckpointSnapshot`) and what it decides (`Decisions`,
`CheckpointDecisions`).

Times are seconds since the epoch, as floats; `now` is the only clock that a plan has. Manifests and statuses
are plain JSON values, as they travel.

What `observe` and `act` promise, because a plan relies on it:

* Own writes are seen. A create or delete whose answer was lost is settled by a read before the next plan; a
  deleted pod is shown with a `PodView.deletion_time` until the watch says better. Should the same plan be
  carried out twice all the same, names and preconditions make the second time do nothing.
* Anything that others did may be seen late. Every delete carries uid and resourceVersion, so that a plan from
  an old snapshot is refused rather than wrong.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from vernal_contract.state import WorkerState

from vernal_operator.api.checkpoint import VLLMCheckpointSpec
from vernal_operator.api.pool import VLLMWorkerPoolSpec
from vernal_operator.build.pod import NodeCache

Manifest = dict[str, Any]
_STARTS_SECONDS = 60.0
"""From a container's start to its process 1, and between the clocks of a node and the operator, at most."""
PodPhase = Literal["Pending", "Running", "Succeeded", "Failed", "Unknown"]


# --- seen ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Pool:
    """A VLLMWorkerPool as read. `spec` is None if it did not parse; then `spec_error` names the field."""

    name: str
    namespace: str
    uid: str
    generation: int
    spec: VLLMWorkerPoolSpec | None
    spec_error: str = ""
    asked: int | None = None  # spec.replicas, also of one that did not parse
    status: Mapping[str, Any] = field(default_factory=dict)
    deletion_time: float | None = None
    renew: str = ""  # the annotation vernal.dev/renew-checkpoint


@dataclass(frozen=True, slots=True)
class ContainerView:
    """A container beside the worker, of spec.podTemplate or injected. The fields are those of `PodView`."""

    name: str
    waiting_reason: str = ""
    restarts: int = 0
    last_exit_code: int | None = None
    last_exit_reason: str = ""
    last_exit_message: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class PodView:
    """A pod whose controller is the pool, and what its worker last said.

    Attributes:
        revision: the label `vernal.dev/revision`.
        slot: the label `vernal.dev/slot`; a terminating pod still holds it.
        running: the container `worker` runs now, so that its admin port may answer.
        container_started: since when, by the node's clock; None while it does not run.
        ready_since: the Ready condition's lastTransitionTime while `ready`.
        deletion_time: metadata.deletionTimestamp, which is when the grace period ends, not when it began.
        deletion_cost: the annotation controller.kubernetes.io/pod-deletion-cost, 0 without it.
        renew: the annotation vernal.dev/renew-checkpoint: the pool's at the time when the pod was made.
        unschedulable: the scheduler's message while it finds no node.
        gates: names of its scheduling gates: no scheduler looks at it while there are any.
        waiting_reason: why the container waits, e.g. ImagePullBackOff or CrashLoopBackOff.
        restarts: of the container `worker`. What follows is forgotten when it grows.
        last_exit_code: of its last termination; last_exit_reason beside it, e.g. OOMKilled.
        last_exit_message: the termination message: what the worker said last, or the end of its log.
        beside: while the pod is not ready, the first container that waits for anything but its turn, or has ended and
            is not ready: of init containers, the worker and the rest, in this order. None if that is the worker.
        worker: the last answer to GET /state of the container that runs now; None if there is none.
        answered_at: when `worker` was read.
        polled_at: when it was last asked, answer or not. A pod that does not answer is not asked for ever.
        doubt: why what it said of checkpoints is left out of `worker`, "" if it is not.
    """

    name: str
    uid: str
    resource_version: str
    revision: str
    slot: int
    created: float
    phase: PodPhase = "Pending"
    scheduled: bool = False
    running: bool = False
    container_started: float | None = None
    ready: bool = False
    ready_since: float | None = None
    deletion_time: float | None = None
    deletion_cost: int = 0
    node: str | None = None
    renew: str = ""
    unschedulable: str = ""
    gates: tuple[str, ...] = ()
    waiting_reason: str = ""
    restarts: int = 0
    last_exit_code: int | None = None
    last_exit_reason: str = ""
    last_exit_message: str = ""
    beside: ContainerView | None = None
    worker: WorkerState | None = None
    answered_at: float | None = None
    polled_at: float | None = None
    doubt: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckpointView:
    """A VLLMCheckpoint as read."""

    name: str
    namespace: str
    uid: str
    generation: int
    spec: VLLMCheckpointSpec
    status: Mapping[str, Any] = field(default_factory=dict)
    deletion_time: float | None = None
    finalizers: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class ChildKey:
    kind: str
    name: str


@dataclass(frozen=True, slots=True)
class ChildView:
    """A Service, PodDisruptionBudget, HorizontalPodAutoscaler, EndpointSlice or CronJob whose controller is the pool.

    Attributes:
        spec_hash: the annotation `vernal.dev/spec-hash` that the applied manifest carried; "" without one.
        owned: the fields that are still as they were applied, as `FieldsV1`; None if they were not looked at.
        going: it is deleted already, and stays for as long as somebody's finalizer keeps it.
    """

    uid: str
    spec_hash: str
    owned: Mapping[str, Any] | None = None
    going: bool = False


@dataclass(frozen=True, slots=True)
class Refused:
    """A write that was decided and does not go through, as long as nothing changes.

    Attributes:
        verb: create, apply, patch or delete.
        reason: one word, of `plan.refused.NEXT_STEP`.
        sentence: the API server's own, or ours where the API server was not asked.
    """

    verb: str
    kind: str
    name: str
    reason: str
    sentence: str


@dataclass(frozen=True, slots=True)
class RevisionView:
    """A ControllerRevision whose controller is the pool. `spec` and `config`: see `build.revision`; `going`: see
    `ChildView`.
    """

    name: str
    uid: str
    revision: str  # the label `vernal.dev/revision`
    number: int
    spec: str
    config: str
    going: bool = False


@dataclass(frozen=True, slots=True)
class Waker:
    """Who holds requests of pools without workers.

    Attributes:
        addresses: of its ready pods.
        port: by which it knows that a request is for this pool.
        ipv6: the family of its addresses, also while there are none.
    """

    addresses: tuple[str, ...]
    port: int
    ipv6: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """A pool and all that matters to it, at one moment.

    Attributes:
        pods: those whose controller is this pool (by uid), terminating and failed ones too.
        taken_slots: slots of pods that bear this pool's label but have another controller, e.g. those of a
            deleted pool of the same name; their names cannot be used yet.
        checkpoints: all of the pool's namespace.
        announced: `Event.key`s that were emitted for this pool already.
        refused: what was decided before and is refused still.
        in_endpoints: names of pods that the pool's Service leads to: their addresses are ready endpoints of it.
        waker: None if this operator knows of none.
        node_cache: None where nodes have none.
        version: the pool's resourceVersion.
        looked_since: when this operator looked at it first.
    """

    now: float
    pool: Pool
    version: int = 0
    pods: tuple[PodView, ...] = ()
    taken_slots: frozenset[int] = frozenset()
    checkpoints: tuple[CheckpointView, ...] = ()
    children: Mapping[ChildKey, ChildView] = field(default_factory=dict)
    revisions: tuple[RevisionView, ...] = ()
    announced: frozenset[str] = frozenset()
    refused: tuple[Refused, ...] = ()
    in_endpoints: frozenset[str] = frozenset()
    waker: Waker | None = None
    node_cache: NodeCache | None = None
    looked_since: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolUse:
    """A pool whose `status.checkpoint.name`, or one of whose live workers, refers to a checkpoint.

    A pool that is being deleted uses nothing.
    """

    name: str
    restore_attempts: int
    retain: bool  # spec.checkpoint.retention.policy is Retain
    unused_seconds: int  # spec.checkpoint.retention.unusedSeconds
    max_unused: int | None = None  # spec.checkpoint.retention.maxUnused
    spec: VLLMWorkerPoolSpec | None = None
    makes: bool = False  # pods are made that can have it
    elsewhere: frozenset[str] = frozenset()  # nodes where such pods have another one of its identity


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerUse:
    """A live pod whose worker's `/state` names this checkpoint's identity and host tuple."""

    pool: str
    pod: str
    pod_uid: str
    restarts: int
    worker: WorkerState
    answered_at: float
    container_started: float | None = None
    node: str | None = None

    @property
    def started(self) -> float:
        """When the worker started. The latest start saw the store's current generation.

        By the worker's own word, but not later than its container could have started it.
        """
        said = self.answered_at - max(0.0, self.worker.uptime)
        return said if self.container_started is None else min(said, self.container_started + _STARTS_SECONDS)

    @property
    def key(self) -> str:
        """One start of one worker, by its own word: who asks an address does not know how often the container behind it
        has been restarted at that moment.
        """
        return f"{self.pod_uid}/{self.worker.start_id or self.restarts}"


@dataclass(frozen=True, slots=True)
class JobView:
    """The janitor Job of a checkpoint, or one that fetches it.

    Attributes:
        message: why it failed.
        said: the termination message of its pod, once that is asked for; "" without one.
        going: see `ChildView`. Then it has neither succeeded nor failed, whatever became of it: it is nobody's word any
            more, and its name is free only when it is gone.
        node: which one it fetches the `generation` to; "" of the janitor.
        ended: when it succeeded or failed, by Kubernetes' clock.
    """

    name: str
    uid: str
    succeeded: bool = False
    failed: bool = False
    message: str = ""
    said: str = ""
    going: bool = False
    node: str = ""
    generation: str = ""
    ended: float | None = None


@dataclass(frozen=True, slots=True)
class Taint:
    key: str
    value: str
    effect: str


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeView:
    """A node. `ready`: and pods may be scheduled there; `kernel`: as `uname -r` has it."""

    name: str
    ready: bool = True
    labels: Mapping[str, str] = field(default_factory=dict)
    taints: tuple[Taint, ...] = ()
    allocatable: Mapping[str, Any] = field(default_factory=dict)
    architecture: str = ""
    kernel: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeCaches:
    """What may be known of nodes' caches.

    Attributes:
        cache: what the administrator says of them.
        machines: all nodes; None where they cannot be looked up.
        told: live workers of the namespace, whatever they have, that have told of their node's cache.
        fetches: Jobs that bring the checkpoint there.
        others: statuses of the namespace's other checkpoints.
    """

    cache: NodeCache
    machines: tuple[NodeView, ...] | None
    told: tuple[WorkerUse, ...] = ()
    fetches: tuple[JobView, ...] = ()
    others: tuple[Mapping[str, Any], ...] = ()

    @property
    def nodes(self) -> frozenset[str] | None:
        return None if self.machines is None else frozenset(node.name for node in self.machines)


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckpointSnapshot:
    """A checkpoint and all that matters to it, at one moment.

    Attributes:
        users: pools of the namespace that refer to it.
        workers: live workers, of any pool, that report its identity and host tuple.
        pods: uids of all live pods of the namespace's pools.
        workers_known: every running pod of every pool of the namespace was asked since this operator started;
            until then `users` and `workers` may lack some, and what they were counted for is kept.
        siblings: other checkpoints on the same claim and path.
        fitting: nodes that pools name in `status.checkpoints` for it.
        gone: those of them that do not exist any more. Only looked up once it is due to be deleted; a node that cannot
            be looked up counts as one that exists.
        job: the janitor Job, if there is one.
        claim_exists: whether the claim in spec.storage still exists. Only looked up once it is
            being deleted and unused.
        namespace_terminating: no Job can be made there any more.
        caches: None where nodes have none.
        refused: as `Snapshot.refused`.
    """

    now: float
    checkpoint: CheckpointView
    users: tuple[PoolUse, ...] = ()
    workers: tuple[WorkerUse, ...] = ()
    pods: frozenset[str] = frozenset()
    workers_known: bool = True
    siblings: tuple[CheckpointView, ...] = ()
    fitting: tuple[str, ...] = ()
    gone: frozenset[str] = frozenset()
    job: JobView | None = None
    claim_exists: bool = True
    namespace_terminating: bool = False
    caches: NodeCaches | None = None
    announced: frozenset[str] = frozenset()
    refused: tuple[Refused, ...] = ()


# --- decided ------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class DeletePod:
    """Delete with preconditions uid and resourceVersion; `reason` is one word, for the Event and the log."""

    name: str
    uid: str
    resource_version: str
    reason: str


@dataclass(frozen=True, slots=True)
class ObjectRef:
    """An object to delete, with its uid as precondition."""

    kind: str
    name: str
    uid: str


@dataclass(frozen=True, slots=True)
class Event:
    """A Kubernetes Event on the planned object. `key` is remembered by `act` and comes back as
    `announced`.
    """

    type: Literal["Normal", "Warning"]
    reason: str
    message: str
    key: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Decisions:
    """All that is to be done about a pool. Empty (`not decisions`) when it is settled.

    Attributes:
        create: Pods, by POST; 409 AlreadyExists counts as done.
        create_checkpoints: VLLMCheckpoints, by POST; 409 counts as done. Their status is `plan_checkpoint`'s.
        delete: pods; 404, and 409 because of a precondition, count as done (the next snapshot shows why).
        apply: children and ControllerRevisions, by server-side apply with force and field manager
            `names.FIELD_MANAGER`.
        remove: those that are not wanted any more.
        status: the whole status to write, or None where the observed one says it already.
        replicas: set the pool's to these through /scale, if it is still as it was seen, in `version`. 409 counts as
            done.
        poll: names of pods whose `/state` the next plan wants read. Plan again once each was asked.
        requeue_after: plan again after this many seconds even if nothing happens; None if only an event can
            change anything.
    """

    create: tuple[Manifest, ...] = ()
    create_checkpoints: tuple[Manifest, ...] = ()
    delete: tuple[DeletePod, ...] = ()
    apply: tuple[Manifest, ...] = ()
    remove: tuple[ObjectRef, ...] = ()
    status: Manifest | None = None
    events: tuple[Event, ...] = ()
    replicas: int | None = None
    version: int = 0
    poll: frozenset[str] = frozenset()
    requeue_after: float | None = None

    def __bool__(self) -> bool:
        """Whether anything is written or read because of this plan; a time to look again alone is nothing."""
        return bool(
            self.create
            or self.create_checkpoints
            or self.delete
            or self.apply
            or self.remove
            or self.status is not None
            or self.events
            or self.replicas is not None
            or self.poll
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckpointDecisions:
    """All that is to be done about a checkpoint.

    Attributes:
        delete: delete the VLLMCheckpoint (its finalizer keeps it until the files are gone), with its uid.
        create: the janitor Job, by POST; 409 counts as done.
        remove: a janitor Job that failed, so that it is tried again.
        finalizers: the whole list to write, or None to leave it.
        status: the whole status to write, or None where the observed one says it already.
    """

    delete: ObjectRef | None = None
    create: tuple[Manifest, ...] = ()
    remove: tuple[ObjectRef, ...] = ()
    finalizers: tuple[str, ...] | None = None
    status: Manifest | None = None
    events: tuple[Event, ...] = ()
    requeue_after: float | None = None

    def __bool__(self) -> bool:
        """Whether anything is written because of this plan."""
        return bool(
            self.delete
            or self.create
            or self.remove
            or self.finalizers is not None
            or self.status is not None
            or self.events
        )
