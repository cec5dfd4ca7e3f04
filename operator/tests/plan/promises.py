"""What must hold after every plan, whatever happened before."""

from collections.abc import Callable

from plan.surroundings import ENV_RENEW, LABEL_REVISION, Surroundings
from vernal_operator.api.checkpointing import Startup
from vernal_operator.plan.model import Decisions, PodView, Snapshot
from vernal_operator.plan.pods import LOST_AFTER_SECONDS
from vernal_operator.plan.pool import AT_ONCE
from vernal_operator.plan.proving import deadline_seconds
from vernal_operator.plan.rollout import bounds


def check(world: Surroundings, snapshot: Snapshot, decisions: Decisions) -> None:
    """The promises of `rollout`, `proving`, `scale` and `startup`, from what the plan saw."""
    spec, status = world.spec, world.status
    limits = bounds(spec.replicas, spec.rollout)
    current = status.get("currentRevision")
    rolled_back = status.get("rejected", {}).get("revision") == world.revision
    target = current if rolled_back else world.revision
    alive = [p for p in snapshot.pods if p.deletion_time is None and p.phase not in ("Failed", "Succeeded")]
    new = [p for p in alive if p.revision == target]
    old = [p for p in alive if p.revision != target]
    draining = [
        p
        for p in snapshot.pods
        if p.deletion_time is not None
        and p.revision != target
        and p.scheduled
        and p.phase not in ("Failed", "Succeeded")
        and snapshot.now < p.deletion_time + LOST_AFTER_SECONDS
    ]
    made = [m["metadata"]["labels"][LABEL_REVISION] for m in decisions.create]
    total = len(alive) + len(draining) + len(made)
    assert not made or total <= limits.ceiling, "above replicas + maxSurge"
    renewal = status.get("renewal", {})
    renewing = renewal.get("outcome") == "Pending" and renewal.get("request") == world.renew
    assert len(new) + made.count(str(target)) <= max(limits.replicas + renewing, len(new)), (
        "more new pods than replicas"
    )
    assert all(ENV_RENEW in str(m) for m in decisions.create) or not renewing, "a pod that does not renew"
    assert len(made) <= AT_ONCE and len(decisions.delete) <= AT_ONCE
    _check_really_there(world, decisions, limits.ceiling)

    by_uid = {p.uid: p for p in snapshot.pods}
    victims = [by_uid[d.uid] for d in decisions.delete]
    assert len({v.uid for v in victims}) == len(victims)
    assert all(v.deletion_time is None for v in victims), "deleted twice"
    gone = {v.uid for v in victims}
    stalled = {d.uid for d in decisions.delete if d.reason == "Stalled"}
    assert not any(v.ready for v in victims if v.uid in stalled)

    def available(pod: PodView) -> bool:
        return pod.ready and snapshot.now >= (pod.ready_since or 0.0) + spec.rollout.min_ready_seconds

    for serves in (lambda pod: pod.ready, available):
        before = sum(serves(p) for p in alive)
        after = sum(serves(p) for p in alive if p.uid not in gone)
        assert after == before or after >= limits.floor, "below replicas - maxUnavailable"

    proven = target == current or any(available(p) for p in new)
    known = world.revisions.get(f"p-{current}") if current is not None else None
    if not proven and (old or known is not None):
        assert len(new) + made.count(str(target)) <= max(1, len(new)), "a second pod of a revision not proven"
    if not proven and known is not None:
        assert set(made) <= {target, current}
        held_back = status.get("failedPods") or any(p.phase == "Failed" for p in snapshot.pods)
        if not held_back and len(made) < AT_ONCE and not _was_rejected(world, decisions):
            assert total >= min(limits.replicas, limits.ceiling), "missing pods are made of the old revision"
        assert not (spec.rollout.paused and target in made), "a new pod while paused"
    if target != current and known is not None and target in made:
        trusted = sum(available(p) for p in new) + sum(p.uid not in gone for p in old) + made.count(str(current))
        held_back = status.get("failedPods") or any(p.phase == "Failed" for p in snapshot.pods)
        assert trusted >= limits.floor or held_back, "a pod that may not work in the place of one that does"
    _check_rejection(world, snapshot, decisions, sum(available(p) for p in new))
    assert not (rolled_back and world.revision in made), "a pod of a rejected revision"
    written = {m["metadata"]["name"] for m in decisions.apply} | set(world.revisions)
    assert all(f"p-{name}" in written for name in made), "a pod of a revision that nobody keeps"
    if spec.checkpoint.startup == Startup.WAIT_FOR_CHECKPOINT and not world.checkpoints and not world.status:
        assert len(new) + len(decisions.create) <= 1

    debris = {p.uid for p in old if p.revision != current and not p.ready}
    for group in (new, [p for p in old if p.uid not in debris]):
        went = [p for p in group if p.uid in gone - stalled]
        stayed = [p for p in group if p.uid not in gone]
        if renewing and group is new and len(went) != len(alive):  # who makes the new checkpoint may stay
            stayed = [p for p in stayed if p.renew != world.renew]
        _check_order(snapshot.now, went, stayed, available)
    _check_status(world, decisions, alive)


def _was_rejected(world: Surroundings, decisions: Decisions) -> bool:
    return decisions.status is not None and "rejected" in decisions.status and "rejected" not in world.status


def _check_rejection(world: Surroundings, snapshot: Snapshot, decisions: Decisions, working: int) -> None:
    if not _was_rejected(world, decisions):
        return
    world.rollbacks += 1
    assert working < world.spec.replicas, "a revision was rejected that works"
    assert working <= world.status.get("updatedAvailableReplicas", 0), "a roll was ended that goes on"
    assert snapshot.now >= world.wanted_since + deadline_seconds(world.spec) - 1, "rejected too early"
    assert not world.spec.rollout.paused and world.spec.replicas
    assert not decisions.create and not decisions.delete, "acted upon before it was written down"
    assert f"p-{world.status['currentRevision']}" in world.revisions, "nothing to go back to"


def _check_really_there(world: Surroundings, decisions: Decisions, ceiling: int) -> None:
    """What the plan could not see does not lead above the ceiling either."""
    names = {m["metadata"]["name"] for m in decisions.create}
    there = {
        name
        for name, pod in world.pods.items()
        if pod.view.deletion_time is None and pod.view.phase not in ("Failed", "Succeeded")
    }
    assert not names or len(there | names) <= ceiling, f"really above replicas + maxSurge: {world.describe()}"


def _check_order(now: float, gone: list[PodView], kept: list[PodView], available: Callable[[PodView], bool]) -> None:
    def known(p: PodView) -> tuple[int, int]:
        rank = 0 if not p.scheduled else 1 if p.phase == "Pending" else 2 if not p.ready else 3 + available(p)
        return rank, p.deletion_cost

    for victim in gone:
        for other in kept:
            assert known(victim) <= known(other), "a better victim was kept"
            if known(victim) == known(other) and victim.ready and victim.worker and other.worker:
                fresh = all(p.answered_at is not None and now - p.answered_at <= 10 for p in (victim, other))
                assert not fresh or victim.worker.in_flight <= other.worker.in_flight, "a busier pod went"


def _check_status(world: Surroundings, decisions: Decisions, alive: list[PodView]) -> None:
    status = decisions.status
    if status is None:
        return
    assert status != world.status
    assert status["replicas"] == len(alive) and status["readyReplicas"] == sum(p.ready for p in alive)
    wanted = dict(pair.split("=") for pair in status["selector"].split(","))
    selected = [p for p in alive if p.name in world.pods and wanted.items() <= world.pods[p.name].labels.items()]
    missed = [p for p in alive if p.name in world.pods and p not in selected]
    assert not missed and len(selected) <= status["replicas"], "the selector is not that of the pods that are counted"
    assert [c["type"] for c in status["conditions"]] == ["Ready", "CheckpointReady", "Progressing", "Degraded"]
    before = {c["type"]: c for c in world.status.get("conditions", [])}
    for condition in status["conditions"]:
        last = before.get(condition["type"])
        if last is not None:
            same = last["status"] == condition["status"]
            assert (last["lastTransitionTime"] == condition["lastTransitionTime"]) or not same
