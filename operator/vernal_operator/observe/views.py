"""From the API server's JSON to the few fields that plans read. The rest never becomes Python objects."""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Generic, TypeVar, cast

import msgspec
from vernal_contract import decoding, names

from vernal_operator import nesting
from vernal_operator.api.parse import parse_checkpoint, parse_pool, readable
from vernal_operator.api.status import VLLMCheckpointStatus, VLLMWorkerPoolStatus
from vernal_operator.kinds import (
    CHECKPOINTS,
    CHILDREN,
    JOBS,
    NODES,
    PODS,
    POOLS,
    REVISIONS,
    SLICES,
    Kind,
)
from vernal_operator.observe.cache import Entry
from vernal_operator.plan.model import (
    CheckpointView,
    ChildView,
    ContainerView,
    JobView,
    NodeView,
    PodPhase,
    PodView,
    Pool,
    RevisionView,
    Taint,
)

log = logging.getLogger(__name__)
T = TypeVar("T")

_DELETION_COST = "controller.kubernetes.io/pod-deletion-cost"


class _Json(msgspec.Struct, rename="camel"):
    """Fields that are absent or null are the same to Kubernetes, hence the None's."""


class _Owner(_Json):
    name: str
    uid: str
    controller: bool | None = None


class _ManagedFields(_Json):
    manager: str = ""
    operation: str = ""
    subresource: str = ""
    fields_v1: dict[str, Any] = msgspec.field(default_factory=dict, name="fieldsV1")


class Meta(_Json):
    name: str = ""
    namespace: str = ""
    uid: str = ""
    resource_version: str = "0"
    generation: int = 0
    creation_timestamp: datetime | None = None
    deletion_timestamp: datetime | None = None
    labels: dict[str, str] | None = None
    annotations: dict[str, str] | None = None
    finalizers: list[str] | None = None
    owner_references: list[_Owner] | None = None

    @property
    def controller(self) -> _Owner | None:
        return next((owner for owner in self.owner_references or () if owner.controller), None)


class Raw(_Json):
    metadata: Meta


@dataclass(frozen=True, slots=True)
class Reader(Generic[T]):
    """How one kind is read: `raw` says which fields, `view` what becomes of them; ValueError if they make no
    sense.
    """

    kind: Kind
    raw: type[Raw]
    view: Callable[[Any], T]
    group: Callable[[Meta], str] = lambda meta: ""

    def entry(self, raw: Raw) -> Entry[T] | None:
        """None if the object makes no sense to this operator; says so in the log."""
        meta = raw.metadata
        try:
            view = self.view(raw)
        except ValueError as error:
            log.error(
                "%s %s/%s is left alone: %s; correct or delete it",
                self.kind.name,
                meta.namespace,
                meta.name,
                error,
            )
            return None
        owner = meta.controller
        return Entry(
            namespace=meta.namespace, name=meta.name, uid=meta.uid, version=int(meta.resource_version),
            group=self.group(meta), owner=owner.uid if owner else "", view=view,
        )  # fmt: skip

    def convert(self, obj: dict[str, Any]) -> Entry[T] | None:
        """The entry of an object that an own call returned."""
        return self.entry(decoding.convert(obj, self.raw))


def _seconds(moment: datetime | None) -> float | None:
    return moment.timestamp() if moment else None


def _pool_label(meta: Meta) -> str:
    return (meta.labels or {}).get(names.LABEL_POOL, "")


# --- pods ---


class _Terminated(_Json):
    exit_code: int = 0
    reason: str = ""
    message: str = ""


class _Waiting(_Json):
    reason: str = ""


class _Running(_Json):
    started_at: datetime | None = None


class _ContainerState(_Json):
    waiting: _Waiting | None = None
    running: _Running | None = None
    terminated: _Terminated | None = None


class _Container(_Json):
    name: str
    ready: bool = False
    restart_count: int = 0
    state: _ContainerState | None = None
    last_state: _ContainerState | None = None


class _Condition(_Json):
    type: str
    status: str
    reason: str | None = None
    message: str | None = None
    last_transition_time: datetime | None = None


class _Gate(_Json):
    name: str = ""


class _PodSpec(_Json):
    node_name: str | None = None
    scheduling_gates: list[_Gate] | None = None


class _PodStatus(_Json):
    phase: str = "Pending"
    pod_ip: str | None = msgspec.field(default=None, name="podIP")
    conditions: list[_Condition] | None = None
    init_container_statuses: list[_Container] | None = None
    container_statuses: list[_Container] | None = None


class _Pod(Raw):
    spec: _PodSpec = msgspec.field(default_factory=_PodSpec)
    status: _PodStatus = msgspec.field(default_factory=_PodStatus)


@dataclass(frozen=True, slots=True)
class SeenPod:
    """A pod and where its admin port is."""

    view: PodView
    address: str | None


def _pod(raw: _Pod) -> SeenPod:
    meta, status = raw.metadata, raw.status
    labels, annotations = meta.labels or {}, meta.annotations or {}
    conditions = {condition.type: condition for condition in status.conditions or ()}
    container = next((c for c in status.container_statuses or () if c.name == names.CONTAINER_WORKER), None)
    state = (container and container.state) or _ContainerState()
    last = (container and container.last_state) or _ContainerState()
    ended = state.terminated or last.terminated
    ready, scheduled = conditions.get("Ready"), conditions.get("PodScheduled")
    is_ready = ready is not None and ready.status == "True"
    refused = scheduled is not None and scheduled.status == "False" and scheduled.reason == "Unschedulable"
    view = PodView(
        name=meta.name,
        uid=meta.uid,
        resource_version=meta.resource_version,
        revision=labels.get(names.LABEL_REVISION, ""),
        slot=_integer(labels.get(names.LABEL_SLOT), default=-1),
        created=_seconds(meta.creation_timestamp) or 0.0,
        phase=cast(PodPhase, status.phase),
        scheduled=raw.spec.node_name is not None,
        running=state.running is not None,
        container_started=_seconds(state.running.started_at) if state.running else None,
        ready=is_ready,
        ready_since=_seconds(ready.last_transition_time) if ready and is_ready else None,
        deletion_time=_seconds(meta.deletion_timestamp),
        deletion_cost=_integer(annotations.get(_DELETION_COST), default=0),
        node=raw.spec.node_name,
        renew=annotations.get(names.ANNOTATION_RENEW, ""),
        unschedulable=(scheduled.message or "Unschedulable") if scheduled and refused else "",
        gates=tuple(gate.name for gate in raw.spec.scheduling_gates or ()),
        waiting_reason=state.waiting.reason if state.waiting else "",
        restarts=container.restart_count if container else 0,
        last_exit_code=ended.exit_code if ended else None,
        last_exit_reason=ended.reason if ended else "",
        last_exit_message=ended.message if ended else "",
        beside=None if is_ready else _beside(status),
    )
    return SeenPod(view, status.pod_ip)


_IN_TURN = ("", "PodInitializing", "ContainerCreating")


def _beside(status: _PodStatus) -> ContainerView | None:
    """See `PodView.beside`."""
    rest = sorted(status.container_statuses or (), key=lambda c: c.name != names.CONTAINER_WORKER)
    for container in (*(status.init_container_statuses or ()), *rest):
        state, last = container.state or _ContainerState(), container.last_state or _ContainerState()
        ended = state.terminated or last.terminated
        waits_for = state.waiting.reason if state.waiting else ""
        if container.ready or (ended is None and waits_for in _IN_TURN):
            continue
        if container.name == names.CONTAINER_WORKER:
            return None  # its own words tell more
        return ContainerView(
            container.name, waits_for, container.restart_count,
            ended.exit_code if ended else None, ended.reason if ended else "", ended.message if ended else "",
        )  # fmt: skip
    return None


def _integer(text: str | None, default: int) -> int:
    try:
        return int(text or "")
    except ValueError:
        return default


class _Pods(_Json):
    items: list[_Pod]


_PODS: Callable[[bytes], _Pods] = nesting.decoder(_Pods)


def termination_messages(page: bytes) -> list[str]:
    """Of the containers of listed pods that have ended."""
    pods = _PODS(page).items
    states = [status.state for pod in pods for status in pod.status.container_statuses or ()]
    return [state.terminated.message for state in states if state is not None and state.terminated is not None]


# --- the project's own kinds ---


class _Custom(Raw):
    spec: Any = None
    status: dict[str, Any] | None = None


def _pool(raw: _Custom) -> Pool:
    meta = raw.metadata
    spec, why = parse_pool({"spec": raw.spec})
    return Pool(
        name=meta.name, namespace=meta.namespace, uid=meta.uid, generation=meta.generation,
        spec=spec, spec_error=why, asked=_asked(raw.spec), status=readable(raw.status or {}, VLLMWorkerPoolStatus),
        deletion_time=_seconds(meta.deletion_timestamp),
        renew=(meta.annotations or {}).get(names.ANNOTATION_RENEW, ""),
    )  # fmt: skip


def _asked(spec: Any) -> int | None:
    replicas = spec.get("replicas") if isinstance(spec, dict) else None
    return replicas if type(replicas) is int and replicas >= 0 else None


def _checkpoint(raw: _Custom) -> CheckpointView:
    meta = raw.metadata
    spec, why = parse_checkpoint({"spec": raw.spec})
    if spec is None:
        raise ValueError(why)
    return CheckpointView(
        name=meta.name, namespace=meta.namespace, uid=meta.uid, generation=meta.generation,
        spec=spec, status=readable(raw.status or {}, VLLMCheckpointStatus),
        deletion_time=_seconds(meta.deletion_timestamp), finalizers=tuple(meta.finalizers or ()),
    )  # fmt: skip


# --- children and jobs ---


class _ChildMeta(Meta):
    managed_fields: list[_ManagedFields] | None = None


class _Child(Raw):
    metadata: _ChildMeta


def _child(raw: _Child) -> ChildView:
    meta = raw.metadata
    applied = (names.FIELD_MANAGER, "Apply", "")
    records = (r for r in meta.managed_fields or () if (r.manager, r.operation, r.subresource) == applied)
    owned = next((record.fields_v1 for record in records), {})
    spec_hash = (meta.annotations or {}).get(names.ANNOTATION_SPEC_HASH, "")
    # Without any record it is applied anew: no record would read as "owned as a whole".
    return ChildView(
        uid=meta.uid, spec_hash=spec_hash if owned else "", owned=owned, going=meta.deletion_timestamp is not None
    )


class _Conditions(_Json):
    ready: bool | None = None
    terminating: bool | None = None


class _Endpoint(_Json):
    addresses: list[str]
    conditions: _Conditions | None = None


class _Port(_Json):
    port: int | None = None


class _Slice(_Child):
    address_type: str = "IPv4"
    endpoints: list[_Endpoint] | None = None
    ports: list[_Port] | None = None


@dataclass(frozen=True, slots=True)
class SliceView(ChildView):
    """An EndpointSlice, of whoever's making.

    Attributes:
        service: whose endpoints they are.
        for_waker: it leads to the waker.
        ready: addresses of endpoints that requests are to go to.
        port: of the first entry.
    """

    address_type: str = "IPv4"
    service: str = ""
    for_waker: bool = False
    ready: tuple[str, ...] = ()
    port: int | None = None


def _slice(raw: _Slice) -> SliceView:
    seen, labels = _child(raw), raw.metadata.labels or {}
    return SliceView(
        seen.uid, seen.spec_hash, seen.owned, seen.going,
        address_type=raw.address_type,
        service=labels.get(names.LABEL_SERVICE, ""),
        for_waker=labels.get(names.LABEL_COMPONENT) == names.COMPONENT_WAKER,
        # Absent means ready, by the API's own word.
        ready=tuple(
            endpoint.addresses[0]
            for endpoint in raw.endpoints or ()
            if endpoint.conditions is None
            or (endpoint.conditions.ready is not False and not endpoint.conditions.terminating)
        ),
        port=next((port.port for port in raw.ports or ()), None),
    )  # fmt: skip


class _Revision(Raw):
    data: Any = None
    revision: int = 0


def _revision(raw: _Revision) -> RevisionView:
    """Anybody's ControllerRevision may bear the label, a StatefulSet's say: what is no text is left out."""
    meta, data = raw.metadata, raw.data if isinstance(raw.data, dict) else {}
    spec, config = (text if isinstance(text := data.get(name), str) else "" for name in ("spec", "config"))
    return RevisionView(
        meta.name, meta.uid, (meta.labels or {}).get(names.LABEL_REVISION, ""), raw.revision, spec, config,
        going=meta.deletion_timestamp is not None,
    )  # fmt: skip


class _JobStatus(_Json):
    conditions: list[_Condition] | None = None


class _Job(Raw):
    status: _JobStatus = msgspec.field(default_factory=_JobStatus)


def _job(raw: _Job) -> JobView:
    going = raw.metadata.deletion_timestamp is not None
    true = {c.type: c for c in raw.status.conditions or () if c.status == "True" and not going}
    failed = true.get("Failed")
    ended, told = true.get("Complete") or failed, raw.metadata.annotations or {}
    return JobView(
        name=raw.metadata.name, uid=raw.metadata.uid, succeeded="Complete" in true, failed=failed is not None,
        message=(failed.message or failed.reason or "") if failed else "", going=going,
        node=told.get(names.ANNOTATION_NODE, ""), generation=told.get(names.ANNOTATION_GENERATION, ""),
        ended=_seconds(ended.last_transition_time) or 0.0 if ended else None,
    )  # fmt: skip


class _Taint(_Json):
    key: str
    effect: str
    value: str | None = None


class _NodeSpec(_Json):
    unschedulable: bool | None = None
    taints: list[_Taint] | None = None


class _NodeInfo(_Json):
    architecture: str = ""
    kernel_version: str = ""


class _NodeStatus(_Json):
    conditions: list[_Condition] | None = None
    allocatable: dict[str, Any] | None = None
    node_info: _NodeInfo | None = None


class _Node(Raw):
    spec: _NodeSpec = msgspec.field(default_factory=_NodeSpec)
    status: _NodeStatus = msgspec.field(default_factory=_NodeStatus)


def _node(raw: _Node) -> NodeView:
    info = raw.status.node_info or _NodeInfo()
    ready = any(c.type == "Ready" and c.status == "True" for c in raw.status.conditions or ())
    return NodeView(
        name=raw.metadata.name, ready=ready and not raw.spec.unschedulable, labels=raw.metadata.labels or {},
        taints=tuple(Taint(t.key, t.value or "", t.effect) for t in raw.spec.taints or ()),
        allocatable=raw.status.allocatable or {}, architecture=info.architecture, kernel=info.kernel_version,
    )  # fmt: skip


def _controller_name(meta: Meta) -> str:
    return meta.controller.name if meta.controller else ""


PODS_READER = Reader(PODS, _Pod, _pod, _pool_label)
POOLS_READER = Reader(POOLS, _Custom, _pool)
CHECKPOINTS_READER = Reader(CHECKPOINTS, _Custom, _checkpoint)
JOBS_READER = Reader(JOBS, _Job, _job, _controller_name)
SLICES_READER = Reader(SLICES, _Slice, _slice, _pool_label)
CHILD_READERS = tuple(
    SLICES_READER if kind is SLICES else Reader(kind, _Child, _child, _pool_label) for kind in CHILDREN
)
REVISIONS_READER = Reader(REVISIONS, _Revision, _revision, _pool_label)
NODES_READER = Reader(NODES, _Node, _node)
READERS: tuple[Reader[Any], ...] = (
    PODS_READER,
    POOLS_READER,
    CHECKPOINTS_READER,
    JOBS_READER,
    *CHILD_READERS,
    REVISIONS_READER,
)
