"""Which VLLMCheckpoints a pool's workers speak of, and which one new pods of the pool thaw."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
from vernal_contract.config import CheckpointPolicy
from vernal_contract.state import FreezeOutcome, WorkerState

from vernal_operator.api.pool import VLLMWorkerPoolSpec
from vernal_operator.api.storage import Storage
from vernal_operator.build.checkpoint import checkpoint, checkpoint_name
from vernal_operator.plan.model import CheckpointView, Manifest, PodView, Pool


@dataclass(frozen=True, slots=True)
class Checkpoints:
    """What a pool has to do with checkpoints.

    Attributes:
        create: VLLMCheckpoints that workers report and that are not there yet.
        reference: `status.checkpoint`, or None if no worker of the wanted revision knows of one.
        view: the VLLMCheckpoint that `reference` names, if it is there.
    """

    create: tuple[Manifest, ...] = ()
    reference: Manifest | None = None
    view: CheckpointView | None = None

    @property
    def is_ready(self) -> bool:
        """Whether new pods may be expected to thaw."""
        return self.view is not None and self.view.deletion_time is None and has(self.view, "Ready")

    @property
    def is_quarantined(self) -> bool:
        return self.view is not None and has(self.view, "Quarantined")


def has(view: CheckpointView, condition: str) -> bool:
    """Whether a condition of a VLLMCheckpoint is True."""
    return any(c["type"] == condition and c["status"] == "True" for c in view.status.get("conditions", []))


def checkpoints(
    pool: Pool,
    spec: VLLMWorkerPoolSpec,
    revision: str,
    pods: Sequence[PodView],
    existing: Iterable[CheckpointView],
) -> Checkpoints:
    """`pods` are the alive ones of the wanted revision."""
    storage = spec.checkpoint.storage
    if spec.checkpoint.policy == CheckpointPolicy.DISABLED or storage is None:
        return Checkpoints()
    by_name = {view.name: view for view in existing}
    reporters: dict[str, WorkerState] = {}
    thawable: Counter[str] = Counter()
    for worker in (pod.worker for pod in pods if pod.worker is not None):
        if worker.identity is None or worker.host_tuple is None or not _made_or_failed(worker):
            continue
        name = checkpoint_name(worker.identity, worker.host_tuple, storage)
        reporters.setdefault(name, worker)
        if worker.artifact is not None:
            thawable[name] += 1
            reporters[name] = worker
    create = tuple(_manifest(pool, spec, storage, worker) for name, worker in reporters.items() if name not in by_name)
    reference = _reference(pool, revision, thawable, reporters, by_name)
    return Checkpoints(create, reference, by_name.get(reference["name"]) if reference else None)


def _made_or_failed(worker: WorkerState) -> bool:
    failed = worker.freeze is not None and worker.freeze.outcome == FreezeOutcome.FAILED
    return worker.artifact is not None or failed


def _reference(
    pool: Pool,
    revision: str,
    thawable: Counter[str],
    reporters: dict[str, WorkerState],
    by_name: dict[str, CheckpointView],
) -> Manifest | None:
    if not thawable:  # nobody speaks of one now (no pods, say)
        return known_reference(pool, revision, by_name.values())
    name = min(thawable, key=lambda candidate: (-thawable[candidate], candidate))
    worker, view = reporters[name], by_name.get(name)
    generation = view.status.get("generation") if view else None
    if generation is None and worker.artifact is not None:
        generation = worker.artifact.generation
    return {"name": name, "identity": worker.identity, "revision": revision, "generation": generation}


def known_reference(pool: Pool, revision: str, existing: Iterable[CheckpointView]) -> Manifest | None:
    """`status.checkpoint` as it is, if it is about this revision: what was known stays true while it is there."""
    old = pool.status.get("checkpoint")
    if not isinstance(old, dict) or old.get("revision") != revision:
        return None
    return dict(old) if any(view.name == old.get("name") for view in existing) else None


def _manifest(pool: Pool, spec: VLLMWorkerPoolSpec, storage: Storage, worker: WorkerState) -> Manifest:
    assert worker.identity is not None and worker.host_tuple is not None
    return checkpoint(
        pool.namespace,
        spec,
        storage,
        identity=worker.identity,
        host_tuple=worker.host_tuple,
        identity_inputs=_json(worker.identity_inputs),
        host=_json(worker.host),
    )


def _json(value: Any) -> dict[str, Any]:
    return {} if value is None else dict(msgspec.to_builtins(value))
