"""Rolls that keep the capacity while they prove themselves, and go back if they do not."""

import json
from dataclasses import replace
from typing import Any

import pytest
from plan.factory import NOW, applied, condition, creator, kept, pending, published, ready, snapshot, spec, starting
from vernal_contract import names
from vernal_operator.api.pool import VLLMWorkerPoolSpec
from vernal_operator.build.meta import pool_owner
from vernal_operator.build.pod import startup_seconds, worker_pod
from vernal_operator.plan import plan
from vernal_operator.plan.backoff import failures
from vernal_operator.plan.model import Decisions, PodView, Snapshot
from vernal_operator.plan.revision import content, restored, revision
from vernal_operator.plan.times import stamp

GOOD = {"image": "worker:1"}
A = revision(spec())
DEADLINE = startup_seconds(spec())


def rolling(*pods: PodView, since: float = NOW - 100, to: str = "worker:bad", **fields: Any) -> Snapshot:
    """From worker:1, which was proven, to another image."""
    new = spec(image=to, **({"replicas": 2} | fields))
    status = {"updateRevision": revision(new), "currentRevision": A, "provingSince": stamp(since)}
    return snapshot(new, *pods, status=status, revisions=(kept(spec()), kept(new, 2)))


def stuck(slot: int = 2, to: str = "worker:bad", **fields: Any) -> PodView:
    return pending(slot, spec=spec(image=to), **({"scheduled": True, "waiting_reason": "ImagePullBackOff"} | fields))


def made(done: Decisions) -> list[str]:
    return [m["metadata"]["labels"][names.LABEL_REVISION] for m in done.create]


def after(seen: Snapshot, done: Decisions, **fields: Any) -> Snapshot:
    """What was written down, and nothing else happened."""
    written = {v.name: v for v in (*seen.revisions, *(applied(m) for m in done.apply if "data" in m))}
    status = seen.pool.status if done.status is None else done.status
    return replace(seen, pool=replace(seen.pool, status=status), revisions=tuple(written.values()), **fields)


# --- the capacity is kept ---


def test_a_lost_old_pod_is_made_again_of_the_old_revision() -> None:
    assert made(plan(rolling(ready(0), stuck()))) == [A]


def test_a_scale_up_is_made_of_the_old_revision_until_the_new_one_is_proven() -> None:
    assert made(plan(rolling(ready(0), stuck(), replicas=4))) == [A] * 3
    olds = [ready(i) for i in range(3)]
    assert made(plan(rolling(*olds, starting(3, spec=spec(image="worker:2")), to="worker:2", replicas=10))) == [A] * 7


def test_when_the_last_old_pod_goes_no_second_one_of_a_broken_revision_is_made() -> None:
    assert made(plan(rolling(stuck()))) == [A, A]


def test_a_pod_of_the_old_revision_is_the_same_again_and_is_told_what_its_image_was_told() -> None:
    first = plan(snapshot(spec()))
    [manifest] = [m for m in first.apply if m["kind"] == "ControllerRevision"]
    assert manifest["metadata"]["ownerReferences"][0]["uid"] == "u"
    view = applied(manifest)
    later = replace(view, config=json.dumps({"a field of": "another release"}))
    seen = rolling(stuck(), ready(1))
    for there in (view, later):
        [pod] = plan(replace(seen, revisions=(there, kept(spec(image="worker:bad"), 2)))).create
        [before] = first.create
        before["spec"]["containers"][0]["env"][0]["value"] = there.config
        assert pod == before


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"podTemplate": {"spec": {"priorityClassName": None, "tolerations": [{"operator": "Exists"}]}}},
        {"engineArgs": {"x": None, "y": [1.5, {"z": None}]}},
        {"model": {"name": "m", "source": {"claim": {"claimName": "c"}}}, "checkpoint": {"policy": "Disabled"}},
        {"env": [{"name": "A", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}}}]},
        {"resources": {"limits": {"nvidia.com/gpu": 1, "memory": "64Gi"}}, "kvTransfer": {"path": "/kv"}},
    ],
)
def test_what_is_kept_makes_the_same_pods_whatever_else_the_pool_wants_by_then(fields: dict[str, Any]) -> None:
    def pod(wanted: VLLMWorkerPoolSpec) -> Any:
        return worker_pod(pool_owner("p", "ns", "u"), wanted, "r", 0)

    now = spec(image="worker:9", replicas=7, rollout={"maxSurge": 3})
    back = restored(content(spec(**fields)), now)
    assert back is not None and pod(back) == pod(spec(**fields))
    assert (back.replicas, back.rollout) == (now.replicas, now.rollout)
    assert revision(back) == revision(spec(**fields))


def test_what_is_kept_is_checked_like_a_pool() -> None:
    """A ControllerRevision that somebody else made gives them no pod that a pool could not ask for."""
    evil = json.dumps(json.loads(content(spec())) | {"podTemplate": {"spec": {"hostPID": True}}})
    assert restored(evil, spec()) is None
    assert restored("[]", spec()) is None and restored("{", spec()) is None
    seen = rolling(ready(0), stuck())
    assert made(plan(replace(seen, revisions=(replace(kept(spec()), spec=evil), *seen.revisions[1:])))) == []


def test_the_old_checkpoint_stays_in_use_until_the_new_revision_is_proven() -> None:
    first = plan(snapshot(spec(), ready(0, worker=creator())))
    assert first.status is not None
    view = published(first.create_checkpoints[0])
    new = spec(image="worker:2")
    freezing = starting(2, spec=new, worker=creator(ready=False, identity="c" * 64), answered_at=NOW)
    proof = ready(2, spec=new, worker=creator(identity="c" * 64))
    for pod, expected in ((freezing, A), (proof, revision(new))):
        seen = rolling(pod, to="worker:2")
        seen.pool.status["checkpoint"] = first.status["checkpoint"]  # type: ignore[index]
        done = plan(replace(seen, checkpoints=(view,)))
        assert done.status is not None and done.status["checkpoint"]["revision"] == expected


# --- rolled back ---


def rejected() -> tuple[Snapshot, Decisions]:
    """A pool just after its new revision was given up."""
    seen = rolling(ready(0), ready(1), stuck(), since=NOW - DEADLINE)
    done = plan(seen)
    return after(seen, done), done


def test_a_revision_that_is_not_proven_in_time_is_rejected_and_only_then_replaced() -> None:
    early = plan(rolling(ready(0), ready(1), stuck(), since=NOW - DEADLINE + 1))
    assert early.requeue_after == 1 and condition(early.status, "Progressing") == ("True", "Proving")
    assert condition(early.status, "Degraded") == ("True", "ImagePullFailed"), "it is told long before"
    seen, done = rejected()
    assert not done.create and not done.delete, "written down first"
    assert condition(done.status, "Progressing") == ("False", "ProgressDeadlineExceeded")
    assert condition(done.status, "Degraded") == ("True", "ProgressDeadlineExceeded")
    bad = revision(spec(image="worker:bad"))
    assert done.status is not None and done.status["rejected"]["revision"] == bad
    assert (done.status["currentRevision"], done.status["updateRevision"]) == (A, bad)
    message = done.status["rejected"]["message"]
    assert "ImagePullBackOff" in message and A in message and "revert" in message
    [event] = [event for event in done.events if event.reason == "ProgressDeadlineExceeded"]
    assert event.type == "Warning" and event.message == message
    then = plan(seen)
    assert [(d.name, d.reason) for d in then.delete] == [(stuck().name, "RolledBack")]


def test_a_pool_that_was_rolled_back_lives_on_on_the_old_revision() -> None:
    seen, _ = rejected()
    settled = replace(seen, pods=(ready(0), ready(1)))
    done = plan(settled)
    assert not done.create and not done.delete
    assert condition(done.status, "Ready") == ("True", "AllReady")
    assert condition(done.status, "Degraded") == ("True", "ProgressDeadlineExceeded"), "though its pods are gone"
    assert done.status is not None and done.status["updatedReplicas"] == 0
    quiet = plan(after(settled, done, now=NOW + 86400, announced=frozenset(e.key for e in done.events)))
    assert not quiet.status and quiet.requeue_after is None
    assert made(plan(replace(settled, pods=(ready(0),)))) == [A], "a lost pod"
    assert seen.pool.spec is not None
    four = replace(seen.pool, spec=seen.pool.spec.model_copy(update={"replicas": 4}))
    assert made(plan(replace(settled, pool=four))) == [A, A], "a change of scale"


def test_a_fixed_spec_ends_it() -> None:
    seen, _ = rejected()
    fixed = spec(image="worker:fixed", replicas=2)
    done = plan(replace(seen, pods=(ready(0), ready(1)), pool=replace(seen.pool, spec=fixed, generation=3)))
    assert made(done) == [revision(fixed)]
    assert done.status is not None and "rejected" not in done.status
    assert done.status["provingSince"] == stamp(NOW), "with all its time"
    assert condition(done.status, "Degraded") == ("False", "AsExpected")


def test_the_old_spec_ends_it_and_needs_no_proof() -> None:
    seen, _ = rejected()
    back = replace(seen.pool, spec=spec(replicas=2), generation=3)
    done = plan(replace(seen, pods=(ready(0), stuck()), pool=back))
    assert made(done) == [A] and [d.name for d in done.delete] == [stuck().name]
    assert done.status is not None and "rejected" not in done.status and "provingSince" not in done.status
    [bumped] = [applied(m) for m in done.apply if m["kind"] == "ControllerRevision"]
    assert (bumped.revision, bumped.number) == (A, 3), "the newest again"


def test_the_same_revision_gets_another_try_after_another() -> None:
    seen, _ = rejected()
    back = plan(replace(seen, pods=(ready(0), ready(1)), pool=replace(seen.pool, spec=spec(replicas=2))))
    bad = seen.pool.spec
    again = plan(after(replace(seen, pool=replace(seen.pool, spec=bad), pods=(ready(0), ready(1))), back))
    assert made(again) == [revision(spec(image="worker:bad"))]


def test_a_revision_that_works_is_never_rejected_late() -> None:
    new = spec(image="worker:2")
    done = plan(rolling(ready(0), ready(1), ready(2, spec=new), to="worker:2", since=NOW - 10 * DEADLINE))
    assert done.status is not None and "rejected" not in done.status and done.status["provingSince"] == stamp(NOW)
    assert len(done.delete) == 1


def test_proof_that_is_lost_starts_the_clock_anew() -> None:
    new = spec(image="worker:2")
    lost = starting(2, spec=new)
    seen = rolling(ready(0), ready(1), lost, to="worker:2")
    del seen.pool.status["provingSince"]  # type: ignore[attr-defined]
    done = plan(seen)
    assert done.status is not None and done.status["provingSince"] == stamp(NOW)


@pytest.mark.parametrize("why", ["paused", "no pod is wanted", "nothing to go back to", "of another revision"])
def test_when_the_clock_does_not_run(why: str) -> None:
    fields: dict[str, Any] = {"paused": {"rollout": {"paused": True}}, "no pod is wanted": {"replicas": 0}}.get(why, {})
    seen = rolling(ready(0), ready(1), stuck(), since=NOW - 2 * DEADLINE, **fields)
    if why == "nothing to go back to":
        seen = replace(seen, revisions=seen.revisions[1:])
    if why == "of another revision":
        seen.pool.status["updateRevision"] = "other"  # type: ignore[index]
    done = plan(seen)
    assert done.status is not None and "rejected" not in done.status
    assert done.status.get("provingSince") == (stamp(NOW) if why == "of another revision" else None)


def half_way(*pods: PodView, available: int = 1, since: float | None = NOW - 100, **fields: Any) -> Snapshot:
    """A roll from worker:1 to worker:bad whose first new pod works. `available`: how many did at the last plan."""
    seen = rolling(*pods, **({"replicas": 4} | fields))
    status = seen.pool.status | {"updatedAvailableReplicas": available}  # type: ignore[operator]
    if since is None:
        del status["provingSince"]
    else:
        status["provingSince"] = stamp(since)
    return replace(seen, pool=replace(seen.pool, status=status))


def works(slot: int, **fields: Any) -> PodView:
    return ready(slot, spec=spec(image="worker:bad"), **fields)


OLDS = tuple(ready(i) for i in range(3))


def test_a_roll_that_stalls_after_its_first_pod_is_rejected_too() -> None:
    pods = (*OLDS, works(3), stuck(4))
    early = plan(half_way(*pods, since=NOW - DEADLINE + 1))
    assert early.requeue_after == 1 and not early.create and not early.delete
    assert condition(early.status, "Progressing") == ("True", "RollingOut")
    assert early.status is not None and stamp(NOW + 1) in str(early.status["conditions"]), "it is told until when"
    seen = half_way(*pods, since=NOW - DEADLINE)
    done = plan(seen)
    assert not done.create and not done.delete, "written down first"
    assert condition(done.status, "Progressing") == ("False", "ProgressDeadlineExceeded")
    assert condition(done.status, "Degraded") == ("True", "ProgressDeadlineExceeded")
    [event] = [event for event in done.events if event.reason == "ProgressDeadlineExceeded"]
    for word in ("1 of 4", "ImagePullBackOff", stuck(4).name, A, "revert"):
        assert word in event.message
    then = plan(after(seen, done))
    assert not made(then) and [d.name for d in then.delete] == [stuck(4).name], "in whose place an old one comes"
    assert made(plan(after(replace(seen, pods=pods[:-1]), done))) == [A]
    end = plan(after(replace(seen, pods=(*OLDS, ready(5), works(3))), done))
    assert [(d.name, d.reason) for d in end.delete] == [(works(3).name, "RolledBack")], "though it works"


def test_one_more_pod_that_is_available_is_progress() -> None:
    grown = plan(half_way(*OLDS, works(3), works(4), since=NOW - 2 * DEADLINE))
    assert grown.status is not None and "rejected" not in grown.status
    assert (grown.status["updatedAvailableReplicas"], grown.status["provingSince"]) == (2, stamp(NOW))
    then = plan(half_way(*OLDS[1:], works(3), works(4), stuck(5), available=2, since=None))
    assert then.status is not None and then.status["provingSince"] == stamp(NOW), "for the next one"
    fewer = plan(half_way(*OLDS, works(3), stuck(4), available=2))
    assert fewer.status is not None and fewer.status["provingSince"] == stamp(NOW - 100), "one that is lost is none"


def test_a_drain_that_a_roll_waits_for_takes_none_of_its_time() -> None:
    draining = replace(ready(0), deletion_time=NOW + 7200, ready=False)
    waits = plan(half_way(draining, *OLDS[1:], works(3), works(4), available=2))
    assert not waits.create and waits.status is not None and "provingSince" not in waits.status
    both = plan(half_way(draining, *OLDS[1:], works(3), stuck(4), since=None))
    assert both.status is not None and both.status["provingSince"] == stamp(NOW)


def test_while_a_roll_stalls_what_is_lost_or_wanted_is_made_of_the_old_revision() -> None:
    assert made(plan(half_way(*OLDS[1:], works(3), stuck(4)))) == [A]
    assert made(plan(half_way(*OLDS, works(3), stuck(4), replicas=10))) == [A] * 6
    assert made(plan(half_way(works(3), stuck(4)))) == [A] * 3, "when the last old pod goes, too"


def test_a_revision_is_not_current_before_there_are_as_many_pods_of_it_as_are_wanted() -> None:
    """Else there were nothing to make missing pods of, and nothing to go back to."""
    new = revision(spec(image="worker:bad"))
    for pods, current in (([works(3), stuck(4)], A), ([works(i) for i in range(4)], new)):
        done = plan(half_way(*pods))
        assert done.status is not None and done.status["currentRevision"] == current


def test_a_roll_none_of_whose_pods_can_be_made_any_more_ends() -> None:
    done = plan(half_way(*OLDS, works(3), since=NOW - DEADLINE))
    assert done.status is not None and "rejected" in done.status
    assert "no further pod" in done.status["rejected"]["message"]


def test_the_deadline_that_is_given_counts() -> None:
    rollout = {"progressDeadlineSeconds": 60}
    for since, given_up in ((59, False), (60, True)):
        done = plan(rolling(ready(0), ready(1), stuck(), since=NOW - since, rollout=rollout))
        assert done.status is not None and ("rejected" in done.status) == given_up


def test_min_ready_seconds() -> None:
    young = ready(2, spec=spec(image="worker:2"), ready_since=NOW - 10)
    done = plan(rolling(ready(0), ready(1), young, to="worker:2", rollout={"minReadySeconds": 30}))
    assert not done.delete and done.requeue_after == 20
    assert "ready for less than" in _message(
        rolling(ready(0), young, since=0, rollout={"minReadySeconds": 30}, to="worker:2")
    )


def _message(seen: Snapshot) -> str:
    done = plan(seen)
    assert done.status is not None
    return str(done.status["rejected"]["message"])


# --- which revision is the current one ---


def test_the_first_revision_is_current_once_a_pod_of_it_is_available() -> None:
    assert "currentRevision" not in (plan(snapshot(spec(), starting(0))).status or {})
    done = plan(snapshot(spec(), ready(0)))
    assert done.status is not None and done.status["currentRevision"] == A


def test_a_revision_is_current_when_no_pod_of_another_is_left() -> None:
    new = spec(image="worker:2")
    for pods, current in (([ready(0)], A), ([], revision(new))):
        done = plan(rolling(*pods, ready(5, spec=new), ready(6, spec=new), to="worker:2"))
        assert done.status is not None and done.status["currentRevision"] == current


def test_a_pool_that_was_never_up_has_nothing_to_go_back_to() -> None:
    first, second = spec(replicas=3, image="worker:bad"), spec(replicas=3, image="worker:2")
    seen = snapshot(second, stuck(0), stuck(1), stuck(2), revisions=(kept(first),))
    assert made(plan(seen)) == [revision(second)]


def test_a_status_that_was_lost_is_found_again_in_the_pods() -> None:
    seen = rolling(ready(0), stuck())
    lost = replace(seen, pool=replace(seen.pool, status={}))
    done = plan(lost)
    assert made(done) == [A] and done.status is not None and done.status["currentRevision"] == A


# --- ControllerRevisions ---


def test_the_history_is_bounded_and_what_is_in_use_is_kept() -> None:
    specs = [spec(image=f"worker:{i}") for i in range(1, 8)]
    views = tuple(kept(s, number) for number, s in enumerate(specs, 1))
    now = spec(image="worker:7", rollout={"revisionHistoryLimit": 2})
    status = {"updateRevision": revision(now), "currentRevision": revision(specs[1])}
    draining = replace(ready(3, spec=specs[2]), deletion_time=NOW + 60)
    done = plan(snapshot(now, ready(0, spec=specs[1]), draining, status=status, revisions=views))
    assert [r.name for r in done.remove] == [views[0].name, views[3].name], (
        "2, 3 and 7 are in use; 5 and 6 are the latest"
    )
    going = tuple(replace(view, going=view in (views[0], views[3], views[4])) for view in views)
    again = plan(snapshot(now, ready(0, spec=specs[1]), draining, status=status, revisions=going))
    assert not again.remove, "a foreign finalizer keeps 1, 4 and 5; only 6 is left of what nothing uses"


def test_a_revision_that_is_the_newest_is_not_written_again() -> None:
    assert not [m for m in plan(rolling(ready(0), ready(1))).apply if m["kind"] == "ControllerRevision"]


# --- pods that fail for good ---


def failed(slot: int, created: float = NOW - 100) -> PodView:
    return pending(slot, phase="Failed", scheduled=True, created=created)


def test_the_first_failed_pod_is_replaced_at_once_and_one_made_in_its_stead_later_and_later() -> None:
    seen = snapshot(spec(), failed(0), revisions=(kept(spec()),))
    pauses = []
    for number in range(7):
        done = plan(replace(seen, pods=(failed(0, created=seen.now - 1 if number else NOW - 100),)))
        assert [d.reason for d in done.delete] == ["Failed"]
        assert bool(done.create) == (number == 0)
        waits = plan(after(replace(seen, pods=()), done))
        pauses.append(0.0 if waits.create else waits.requeue_after)
        later = seen.now + (pauses[-1] or 0.0)
        due = plan(after(replace(seen, pods=()), done, now=later))
        assert len(due.create) == 1
        seen = after(seen, done, now=later + 5)
    assert pauses == [0.0, 10.0, 20.0, 40.0, 80.0, 160.0, 300.0]


def test_pods_that_fail_together_count_once() -> None:
    wanted = spec(replicas=3)
    done = plan(snapshot(wanted, failed(0), failed(1), failed(2)))
    assert len(done.create) == 3
    assert done.status is not None and done.status["failedPods"] == [
        {"revision": A, "count": 1, "lastTime": stamp(NOW), "lastCreated": stamp(NOW - 100)}
    ]


@pytest.mark.parametrize("ahead", [-7200.0, -20.0, 0.0, 20.0, 7200.0])
def test_failures_in_a_row_are_counted_however_the_operator_s_clock_is_set(ahead: float) -> None:
    """A kubelet refuses each pod within seconds; `created` is the API server's clock, `now` the operator's."""
    seen, counts = snapshot(spec(), revisions=(kept(spec()),)), []
    for number in range(4):
        made = NOW + 5.0 * number
        pod = failed(number, created=made)
        done = plan(replace(seen, pods=(pod,), now=made + 1 + ahead))
        seen = after(seen, done)
        again = plan(replace(seen, pods=(pod,), now=made + 2 + ahead))  # it is not gone yet
        seen = after(seen, again)
        counts.append(seen.pool.status["failedPods"][0]["count"])
    assert counts == [1, 2, 3, 4]


def test_pods_that_were_there_when_one_failed_count_with_it_though_they_are_found_later() -> None:
    wanted = spec(replicas=2)
    older, younger = failed(0, created=NOW - 900), failed(1, created=NOW - 300)
    alive = replace(ready(1), created=NOW - 300)
    seen = snapshot(wanted, older, alive, revisions=(kept(wanted),))
    seen = after(seen, plan(seen))
    later = plan(replace(seen, pods=(younger,), now=NOW + 3))
    assert later.status is not None and [entry["count"] for entry in later.status["failedPods"]] == [1]


def test_failures_are_forgotten_and_hold_back_no_other_revision() -> None:
    entry = {"revision": A, "count": 5, "lastTime": stamp(NOW - 10)}
    seen = snapshot(spec(), status={"failedPods": [entry]})
    assert not plan(seen).create and plan(seen).requeue_after == 70
    assert plan(replace(seen, now=NOW + 700)).create
    assert made(plan(snapshot(spec(image="worker:2"), status={"failedPods": [entry]}))) == [
        revision(spec(image="worker:2"))
    ]


# --- scale ---


def test_the_selector_selects_one_pod_a_replica_in_every_phase() -> None:
    """An HPA leaves out pods that are terminating or failed (podautoscaler/replica_calculator.go, groupPods)."""
    phases: dict[str, Snapshot] = {
        "starting": snapshot(spec(replicas=2), starting(0), pending(1)),
        "ready": snapshot(spec(replicas=2), ready(0), ready(1)),
        "rolling": rolling(ready(0), ready(1), stuck()),
        "rolled back": replace(rejected()[0], pods=(ready(0), ready(1), stuck())),
        "draining": snapshot(spec(replicas=1), ready(0), replace(ready(1), deletion_time=NOW + 60)),
        "failed": snapshot(spec(replicas=1), ready(0), failed(1)),
        "scaled to zero": snapshot(spec(replicas=0)),
    }
    for phase, seen in phases.items():
        status = plan(seen).status
        assert status is not None and status["selector"] == "vernal.dev/component=worker,vernal.dev/pool=p", phase
        counted = [pod for pod in seen.pods if pod.deletion_time is None and pod.phase != "Failed"]
        assert status["replicas"] == len(counted), phase


# --- the clock ---


def test_time_that_was_noted_ahead_of_the_clock_counts_from_now_on() -> None:
    """The clock was ahead then, or was set back since: nothing may wait for it to come there again."""
    done = plan(rolling(ready(0), ready(1), stuck(), since=NOW + 3600))
    assert done.status is not None and done.status["provingSince"] == stamp(NOW)
    assert done.requeue_after is not None and done.requeue_after <= DEADLINE
    entry = {"revision": A, "count": 5, "lastTime": stamp(NOW + 3600)}
    (kept,) = failures([entry], (), (), (A,), NOW)
    assert kept == entry | {"lastTime": stamp(NOW)}
