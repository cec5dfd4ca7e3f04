"""All checkpoints that a pool's pods may thaw: over unlike nodes one for each kind of node (`status.checkpoints`).

A worker says which checkpoint it has, and Kubernetes where it runs. So a node is known to fit a checkpoint until a pod
that was made there later has one of another kernel, driver or architecture: the node was updated. One that differs in
other things (a GPU of another kind in the same node) takes nothing away. What is known is kept in the status, because
the pods of one kind of node may all be gone while the node is not.

    an entry comes   with the first live pod that has its checkpoint
    an entry stays   while the VLLMCheckpoint is there, pods are still made of its revision, or of its identity, and
                     a pod has it or a node fits it
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import msgspec
from vernal_contract import decoding
from vernal_contract.identity import HostTuple
from vernal_contract.state import WorkerState

from vernal_operator.api.storage import Storage
from vernal_operator.build.checkpoint import checkpoint_name
from vernal_operator.plan.model import CheckpointView, Manifest, PodView, Pool

MOST_NODES, MOST_ENTRIES = 10, 16
"""That a status holds: a node more than these may lose its checkpoint, and makes it anew."""


def listed(
    pool: Pool, storage: Storage, made: Sequence[str], pods: Iterable[PodView], existing: Mapping[str, CheckpointView]
) -> list[Manifest]:
    """`status.checkpoints`.

    Args:
        made: revisions that pods are made of, the wanted one first.
        pods: the live ones.
        existing: VLLMCheckpoints by name.
    """
    old = {entry["name"]: entry for entry in pool.status.get("checkpoints", []) if entry["name"] in existing}
    users = _users(storage, pods)
    last: dict[tuple[str, str], HostTuple | None] = {}  # of the pod that was made there last, by identity and node
    for pod in sorted((pod for having in users.values() for pod in having), key=lambda pod: (pod.created, pod.name)):
        if pod.node is not None:
            last[_worker(pod).identity or "", pod.node] = _worker(pod).host
    made_of = {_worker(pod).identity for having in users.values() for pod in having if pod.revision in made}
    entries = []
    for name in sorted(old.keys() | users.keys()):
        having, before, view = users.get(name, []), old.get(name, {}), existing.get(name)
        identity = (_worker(having[0]).identity if having else before["identity"]) or ""
        host = _worker(having[0]).host if having else None if view is None else _host(view)
        now = {pod.node for pod in having if pod.node is not None}
        known = before.get("nodes", []) if before.get("revision") in made or identity in made_of else []
        fit = {n for n in now.union(known) if (identity, n) not in last or _same_machine(host, last[identity, n])}
        nodes = sorted([*sorted(fit & now), *sorted(fit - now)][:MOST_NODES])  # those with a pod whatever the limit
        if having or nodes:
            entries.append(_entry(name, made, having, nodes, before, existing.get(name)))
    entries.sort(key=lambda entry: (entry["name"] not in users, entry["name"]))
    return sorted(entries[:MOST_ENTRIES], key=lambda entry: str(entry["name"]))


def fitting(pools: Iterable[Pool], checkpoint: str) -> tuple[str, ...]:
    """Nodes that pools name for a checkpoint. A pool that goes names none."""
    entries = (e for pool in pools if pool.deletion_time is None for e in pool.status.get("checkpoints", []))
    named = (entry.get("nodes", []) for entry in entries if entry.get("name") == checkpoint)
    return tuple(sorted({node for nodes in named for node in nodes}))


def makes(pool: Pool, checkpoint: str) -> bool:
    """Whether pods are made of a pool that can have a checkpoint."""
    status = pool.status
    if (status.get("checkpoint") or {}).get("name") == checkpoint:
        return True
    made = {status.get("updateRevision"), status.get("currentRevision")} - {None}
    return any(e.get("name") == checkpoint and e.get("revision") in made for e in status.get("checkpoints", []))


def elsewhere(pool: Pool, checkpoint: str, identity: str) -> frozenset[str]:
    """Nodes on which a pool's pods have another checkpoint of the same identity: hosts of another kind."""
    entries = [e for e in pool.status.get("checkpoints", []) if e.get("identity") == identity]
    here = {node for e in entries if e.get("name") == checkpoint for node in e.get("nodes", [])}
    return frozenset(n for e in entries if e.get("name") != checkpoint for n in e.get("nodes", [])) - here


def _users(storage: Storage, pods: Iterable[PodView]) -> dict[str, list[PodView]]:
    """Pods by the checkpoint that they have."""
    out: dict[str, list[PodView]] = {}
    for pod in pods:
        worker = pod.worker
        if worker is None or worker.artifact is None or worker.identity is None or worker.host_tuple is None:
            continue
        out.setdefault(checkpoint_name(worker.identity, worker.host_tuple, storage), []).append(pod)
    return out


def _entry(
    name: str,
    made: Sequence[str],
    having: Sequence[PodView],
    nodes: list[str],
    before: Mapping[str, Any],
    view: CheckpointView | None,
) -> Manifest:
    entry = dict(before) | {"name": name, "nodes": nodes}
    if having:
        worker = _worker(having[0])
        revision = min({pod.revision for pod in having}, key=lambda r: (made.index(r) if r in made else len(made), r))
        entry |= {"identity": worker.identity, "hostTuple": worker.host_tuple, "revision": revision}
        if worker.artifact is not None:
            entry["generation"] = worker.artifact.generation
    current = None if view is None else view.status.get("generation")  # of the worker that started last
    return entry | ({"generation": current} if current is not None else {})


def _worker(pod: PodView) -> WorkerState:
    assert pod.worker is not None
    return pod.worker


def _host(view: CheckpointView) -> HostTuple | None:
    try:
        return decoding.convert(view.spec.host, HostTuple)
    except msgspec.ValidationError:  # a newer worker's
        return None


def _same_machine(one: HostTuple | None, other: HostTuple | None) -> bool:
    """Whether both may be parts of one node as it is now. What is not known may be."""
    if one is None or other is None:
        return True
    return (one.architecture, one.kernel, one.gpu_driver) == (other.architecture, other.kernel, other.gpu_driver)
