"""The plan of a pool as a whole: what it makes, names, keeps its hands off, and when it has nothing to do."""

from dataclasses import replace

import pytest
from fuzz.limits import bounded
from plan.factory import NOW, applied, condition, creator, pending, pool, published, ready, snapshot, spec, starting
from vernal_operator.build.pod import NodeCache
from vernal_operator.plan import plan
from vernal_operator.plan.model import ChildKey, ChildView, Decisions, PodView, Snapshot
from vernal_operator.plan.pods import LOST_AFTER_SECONDS
from vernal_operator.plan.pool import AT_ONCE
from vernal_operator.plan.revision import revision

CREATED = {("Service", "p"), ("PodDisruptionBudget", "p"), ("ControllerRevision", f"p-{revision(spec())}")}
METRICS = [{"type": "Pods"}]


def settle(first: Snapshot) -> tuple[Snapshot, Decisions]:
    """Write down what a plan says beside pods, and plan again."""
    done = plan(first)
    children = dict(first.children) | {
        ChildKey(c["kind"], c["metadata"]["name"]): ChildView("u", c["metadata"]["annotations"]["vernal.dev/spec-hash"])
        for c in done.apply
        if c["kind"] != "ControllerRevision"
    }
    written = [applied(c) for c in done.apply if c["kind"] == "ControllerRevision"]
    status = first.pool.status if done.status is None else done.status
    seen = replace(
        first,
        children=children,
        revisions=tuple(v for v in first.revisions if v.name not in {w.name for w in written}) + tuple(written),
        pool=replace(first.pool, status=status),
        checkpoints=first.checkpoints + tuple(published(m) for m in done.create_checkpoints),
        announced=first.announced | {e.key for e in done.events},
    )
    return seen, plan(seen)


def slots(decisions: Decisions) -> list[str]:
    return [m["metadata"]["labels"]["vernal.dev/slot"] for m in decisions.create]


def test_a_new_pool() -> None:
    done = plan(snapshot(spec(replicas=2)))
    rev = revision(spec())
    assert [m["metadata"]["name"] for m in done.create] == [f"p-{rev}-0", f"p-{rev}-1"]
    assert {(c["kind"], c["metadata"]["name"]) for c in done.apply} == CREATED
    assert condition(done.status, "Ready") == ("False", "NoneReady")
    assert condition(done.status, "CheckpointReady") == ("False", "Pending")
    assert condition(done.status, "Progressing") == ("True", "ScalingUp")
    assert done.status is not None and done.status["selector"] == "vernal.dev/component=worker,vernal.dev/pool=p"


@pytest.mark.parametrize("policy", ["Auto", "Required", "Disabled"])
def test_a_settled_pool_is_left_alone(policy: str) -> None:
    wanted = spec(replicas=2, checkpoint={"policy": policy, "storage": {"claimName": "store"}})
    rev = revision(wanted)
    seen, _ = settle(snapshot(wanted, ready(0, revision=rev), ready(1, revision=rev)))
    seen = replace(seen, now=NOW + 86400)
    done = plan(seen)
    assert not done, done
    assert done.requeue_after is None


def test_names_fill_the_smallest_gap_and_a_terminating_pod_keeps_its_slot() -> None:
    going = replace(ready(0), deletion_time=NOW + 60, ready=False)
    seen = snapshot(spec(replicas=4), going, ready(2), taken_slots=frozenset({1, 4}))
    assert slots(plan(seen)) == ["3", "5", "6"]


def test_failed_pods_are_replaced() -> None:
    failed = replace(ready(0), phase="Failed", ready=False, running=False)
    done = plan(snapshot(spec(replicas=1), failed))
    assert [(d.name, d.reason) for d in done.delete] == [(failed.name, "Failed")]
    assert slots(done) == ["1"]


def test_a_pool_that_is_being_deleted_is_left_to_the_garbage_collector() -> None:
    assert plan(replace(snapshot(spec()), pool=pool(spec(), deletion_time=NOW))) == Decisions()


def test_a_spec_that_does_not_parse_changes_nothing_but_the_condition() -> None:
    before, _ = settle(snapshot(spec(), ready(0)))
    broken = replace(before.pool, spec=None, spec_error="spec.image: Field required", generation=2)
    seen, again = settle(replace(before, pool=broken))
    done = plan(replace(before, pool=broken))
    assert not (done.create or done.delete or done.apply or done.remove or done.poll)
    assert condition(done.status, "Degraded") == ("True", "InvalidSpec")
    assert condition(done.status, "Ready") == ("True", "AllReady"), "the pods serve on"
    assert "spec.image" in str(done.status)
    assert not again
    recovered = plan(replace(seen, pool=replace(seen.pool, spec=spec(), generation=3)))
    assert condition(recovered.status, "Degraded") == ("False", "AsExpected")
    assert not recovered.create and not recovered.delete


def test_children_follow_the_spec() -> None:
    scaled = spec(autoscaling={"maxReplicas": 3, "metrics": METRICS})
    seen, done = settle(snapshot(scaled, ready(0)))
    kinds = {key.kind for key in seen.children}
    assert kinds == {"Service", "PodDisruptionBudget", "HorizontalPodAutoscaler"} and not done.apply
    changed = plan(replace(seen, pool=pool(spec(autoscaling={"maxReplicas": 5, "metrics": METRICS}))))
    assert [c["kind"] for c in changed.apply] == ["HorizontalPodAutoscaler"]
    dropped = plan(replace(seen, pool=pool(spec())))
    assert [(r.kind, r.name, r.uid) for r in dropped.remove] == [("HorizontalPodAutoscaler", "p", "u")]
    going = {key: replace(view, going=True) for key, view in seen.children.items()}
    assert not plan(replace(seen, pool=pool(spec()), children=going)).remove, "a foreign finalizer keeps it"


def test_changes_that_no_pod_is_made_of_roll_nothing() -> None:
    base = revision(spec())
    free = spec(
        replicas=9,
        rollout={"maxSurge": 2},
        autoscaling={"maxReplicas": 9, "metrics": METRICS},
        disruptionBudget={"maxUnavailable": 2},
        checkpoint={
            "storage": {"claimName": "store"},
            "startup": "WaitForCheckpoint",
            "retention": {"unusedSeconds": 5},
        },
    )
    assert revision(free) == base
    for field, value in {
        "image": "worker:2",
        "env": [{"name": "A", "value": "1"}],
        "engineArgs": {"seed": 1},
        "terminationGracePeriodSeconds": 200,
        "checkpoint": {"storage": {"claimName": "other"}},
        "podTemplate": {"spec": {"priorityClassName": "x"}},
    }.items():
        assert revision(spec(**{field: value})) != base, field


def test_defaults_that_the_api_server_writes_down_do_not_change_the_revision() -> None:
    explicit = spec(
        terminationGracePeriodSeconds=120,
        drain={"propagationSeconds": 5, "timeoutSeconds": 90},
        model={"name": "m", "source": {"hub": {}}},
        checkpoint={"policy": "Auto", "weights": "External", "storage": {"claimName": "store", "subPath": ""}},
    )
    assert revision(explicit) == revision(spec())


def test_a_draining_old_pod_holds_its_place_until_its_node_is_surely_gone() -> None:
    wanted = spec(replicas=1, rollout={"maxSurge": 0, "maxUnavailable": 1})
    draining = replace(ready(0, revision="old"), deletion_time=NOW + 60, ready=False)
    done = plan(snapshot(wanted, draining))
    assert not done.create and done.requeue_after == 60 + LOST_AFTER_SECONDS
    late = plan(replace(snapshot(wanted, draining), now=NOW + 61 + LOST_AFTER_SECONDS))
    assert len(late.create) == 1


def test_a_scale_up_does_not_wait_for_pods_that_a_scale_down_drains() -> None:
    draining = tuple(replace(ready(i), deletion_time=NOW + 60, ready=False) for i in (1, 2))
    assert slots(plan(snapshot(spec(replicas=3), ready(0), *draining))) == ["3", "4"]


def wait_spec(replicas: int = 3, policy: str = "Auto") -> dict[str, object]:
    storage = {"claimName": "store"}
    return {
        "replicas": replicas,
        "checkpoint": {"policy": policy, "startup": "WaitForCheckpoint", "storage": storage},
    }


@pytest.mark.parametrize(
    ("name", "pods", "created"),
    [
        ("nothing yet", (), 1),
        ("the first pod is pending", (pending(0),), 0),
        ("the first pod starts", (starting(0),), 0),
        ("it is ready, but was not asked yet", (ready(0, polled_at=None, answered_at=None),), 0),
        ("it published", (ready(0, worker=creator()),), 2),
        ("it is ready and does not answer", (replace(ready(0), worker=None, answered_at=None),), 2),
        ("it published and is not ready", (starting(0, worker=creator(ready=False), answered_at=NOW),), 2),
        ("it cannot start, and has had its time", (starting(0, created=NOW - 9999),), 2),
    ],
)
def test_wait_for_checkpoint(name: str, pods: tuple[PodView, ...], created: int) -> None:
    if name == "it is ready, but was not asked yet":
        pods = (replace(pods[0], worker=None),)
    assert len(plan(snapshot(spec(**wait_spec()), *pods)).create) == created, name


def test_without_checkpoints_nobody_waits() -> None:
    wanted = spec(**wait_spec(policy="Disabled"))
    assert len(plan(snapshot(wanted)).create) == 3


def test_the_second_pod_of_a_roll_waits_for_the_checkpoint_of_the_first() -> None:
    wanted = spec(replicas=2, rollout={"maxSurge": 2, "maxUnavailable": 0})
    old = (ready(0, revision="old"), ready(1, revision="old"))
    assert len(plan(snapshot(wanted, *old)).create) == 1
    unasked = replace(ready(2), worker=None, answered_at=None, polled_at=None)
    waits = plan(snapshot(wanted, *old, unasked))
    assert not waits.create and not waits.delete and waits.poll == {unasked.name}
    goes_on = plan(snapshot(wanted, *old, ready(2, worker=creator())))
    assert len(goes_on.create) == 1 and len(goes_on.delete) == 1


def test_what_one_plan_does_is_bounded() -> None:
    assert len(plan(snapshot(spec(replicas=300))).create) == AT_ONCE
    with bounded():  # what /scale takes; a list of them all would fill any memory
        assert len(plan(snapshot(spec(replicas=2**31 - 1))).create) == AT_ONCE
    many = [ready(i) for i in range(300)]
    assert len(plan(snapshot(spec(replicas=0), *many)).delete) == AT_ONCE


def test_a_node_cache_is_the_next_pods_and_changes_no_revision() -> None:
    cache, wanted = NodeCache("/cache", 1), spec(replicas=2)
    without, made = plan(snapshot(wanted)).create, plan(snapshot(wanted, node_cache=cache)).create
    assert [pod["metadata"] for pod in made] == [pod["metadata"] for pod in without] != []
    for pod in made:
        assert [v["hostPath"]["path"] for v in pod["spec"]["volumes"] if "hostPath" in v] == ["/cache/ns"]
    settled, _ = settle(snapshot(spec(), ready()))
    done = plan(replace(settled, node_cache=cache))
    assert not done.delete and not done.create, "those that are there go on without"
