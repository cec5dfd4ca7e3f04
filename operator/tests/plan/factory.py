"""Short ways to say what a snapshot holds."""

from typing import Any

from vernal_contract.identity import HostTuple, IdentityInputs, digest
from vernal_contract.state import ArtifactRef, FreezeOutcome, FreezeReport, Phase, StartMode, WorkerState
from vernal_operator.api.checkpoint import VLLMCheckpointSpec
from vernal_operator.api.parse import parse_pool
from vernal_operator.api.pool import VLLMWorkerPoolSpec
from vernal_operator.build.meta import pool_owner
from vernal_operator.build.revision import revision_data, revision_name
from vernal_operator.plan.model import CheckpointView, PodView, Pool, RevisionView, Snapshot
from vernal_operator.plan.revision import content, revision

NOW = 1_800_000_000.0
INPUTS = IdentityInputs(image_id="i", engine_args={"seed": 0}, engine_env={}, model="m", weights="InImage", versions={})
HOST = HostTuple(architecture="x86_64", cpu_features=("avx2",), kernel="6.18")
IDENTITY, HOST_TUPLE = digest(INPUTS), digest(HOST)

RAW: dict[str, Any] = {
    "image": "worker:1",
    "replicas": 1,
    "model": {"name": "m"},
    "checkpoint": {"storage": {"claimName": "store"}},
}


def spec(**fields: Any) -> VLLMWorkerPoolSpec:
    parsed, error = parse_pool({"spec": RAW | fields})
    assert parsed is not None, error
    return parsed


def pool(wanted: VLLMWorkerPoolSpec | None = None, **fields: Any) -> Pool:
    values = {"name": "p", "namespace": "ns", "uid": "u", "generation": 1, "spec": wanted or spec()}
    return Pool(**(values | fields))


def snapshot(wanted: VLLMWorkerPoolSpec, *pods: PodView, **fields: Any) -> Snapshot:
    own = {key: fields.pop(key) for key in ("status", "generation") if key in fields}
    return Snapshot(**({"now": NOW, "pool": pool(wanted, **own), "pods": pods} | fields))


def pending(slot: int = 0, **fields: Any) -> PodView:
    """A pod that no node has taken yet."""
    rev = fields.pop("revision", None) or revision(fields.pop("spec", None) or spec())
    values = {
        "name": f"p-{rev}-{slot}",
        "uid": f"uid-{rev}-{slot}",
        "resource_version": "1",
        "revision": rev,
        "slot": slot,
        "created": NOW - 100,
    }
    return PodView(**(values | fields))


def starting(slot: int = 0, **fields: Any) -> PodView:
    """A pod whose worker runs and is not ready; it was asked just now."""
    return pending(slot, **({"scheduled": True, "running": True, "phase": "Running", "polled_at": NOW} | fields))


def ready(slot: int = 0, **fields: Any) -> PodView:
    """A pod that thawed and serves; it was asked just now."""
    report = fields.pop("worker", None) or worker(f"p-{slot}", in_flight=fields.pop("in_flight", 0))
    values = {"ready": True, "ready_since": NOW - 50, "worker": report, "polled_at": NOW, "answered_at": NOW}
    return starting(slot, **(values | fields))


def artifact(generation: str = "g1") -> ArtifactRef:
    return ArtifactRef(
        identity=IDENTITY, generation=generation, host_tuple=HOST_TUPLE, bytes=1000, shared_bytes=400, files=3
    )


def worker(pod: str = "p-0", **fields: Any) -> WorkerState:
    """What a worker says that thawed; with other `fields`, what any other says."""
    values: dict[str, Any] = {
        "pod": pod,
        "namespace": "ns",
        "pool": "p",
        "revision": "r",
        "phase": Phase.READY,
        "ready": True,
        "start_mode": StartMode.RESTORED,
        "start_reason": "Restored",
        "identity": IDENTITY,
        "identity_inputs": INPUTS,
        "host_tuple": HOST_TUPLE,
        "host": HOST,
        "artifact": artifact(),
        "uptime": 50.0,
    }
    return WorkerState(**(values | fields))


def creator(pod: str = "p-0", **fields: Any) -> WorkerState:
    """A worker that started cold and published its checkpoint."""
    report = FreezeReport(outcome=FreezeOutcome.PUBLISHED, seconds=2.0)
    return worker(pod, **({"start_mode": StartMode.COLD, "start_reason": "NoArtifact", "freeze": report} | fields))


def failed_creator(pod: str = "p-0", **fields: Any) -> WorkerState:
    """A worker that started cold and could not be frozen."""
    report = FreezeReport(outcome=FreezeOutcome.FAILED, reason="CriuDumpFailed", message="no")
    return creator(pod, **({"freeze": report, "artifact": None} | fields))


def kept(wanted: VLLMWorkerPoolSpec, number: int = 1) -> RevisionView:
    """The ControllerRevision of a spec."""
    rev = revision(wanted)
    data = revision_data(pool_owner("p", "ns", "u"), wanted, rev, content(wanted))
    return RevisionView(revision_name("p", rev), f"cr-{rev}", rev, number, data["spec"], data["config"])


def applied(manifest: dict[str, Any]) -> RevisionView:
    """The ControllerRevision that a plan asked for, as it is seen then."""
    meta, data = manifest["metadata"], manifest["data"]
    rev = meta["labels"]["vernal.dev/revision"]
    return RevisionView(meta["name"], f"cr-{rev}", rev, manifest["revision"], data["spec"], data["config"])


def condition(status: dict[str, Any] | None, kind: str) -> tuple[str, str]:
    """Status and reason of a condition."""
    assert status is not None
    return next((c["status"], c["reason"]) for c in status["conditions"] if c["type"] == kind)


def published(manifest: dict[str, Any], **status: Any) -> CheckpointView:
    """The VLLMCheckpoint that a plan asked for, as it looks when a worker has published it."""
    return CheckpointView(
        name=manifest["metadata"]["name"],
        namespace="ns",
        uid="k",
        generation=1,
        spec=VLLMCheckpointSpec.model_validate(manifest["spec"]),
        status={"generation": "g1", "conditions": [{"type": "Ready", "status": "True"}]} | status,
        finalizers=("vernal.dev/artifact-files",),
    )
