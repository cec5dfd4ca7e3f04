"""The life of a VLLMCheckpoint."""

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from plan.factory import NOW, artifact, creator, failed_creator, published, ready, snapshot, spec, worker
from vernal_contract.state import Phase, RestoreFailure, StartMode, WorkerState
from vernal_operator.plan import plan, plan_checkpoint
from vernal_operator.plan.model import (
    CheckpointDecisions,
    CheckpointSnapshot,
    CheckpointView,
    JobView,
    PoolUse,
    WorkerUse,
)
from vernal_operator.plan.times import stamp

FINALIZER = "vernal.dev/artifact-files"
USER = PoolUse(name="p", restore_attempts=3, retain=False, unused_seconds=3600)


def view(**fields: Any) -> CheckpointView:
    [manifest] = plan(snapshot(spec(), ready(0, worker=creator()))).create_checkpoints
    return replace(published(manifest), **({"status": {}} | fields))


def use(state: WorkerState, uid: str = "a", restarts: int = 0) -> WorkerUse:
    return WorkerUse(pool="p", pod=uid, pod_uid=uid, restarts=restarts, worker=state, answered_at=NOW)


def failing(generation: str = "g1", reason: str = "DigestMismatch") -> WorkerState:
    failure = RestoreFailure(generation=generation, stage="verify", reason=reason, message="no")
    return worker(start_mode=StartMode.COLD, artifact=None, restore_failures=[failure])


def seen(*uses: WorkerUse, users: tuple[PoolUse, ...] = (USER,), **fields: Any) -> CheckpointSnapshot:
    own = {key: fields.pop(key) for key in ("status", "deletion_time", "finalizers") if key in fields}
    return CheckpointSnapshot(**({"now": NOW, "checkpoint": view(**own), "workers": uses, "users": users} | fields))


def conditions(done: CheckpointDecisions) -> dict[str, str]:
    assert done.status is not None
    return {c["type"]: c["status"] for c in done.status["conditions"]}


def again(before: CheckpointSnapshot, done: CheckpointDecisions, **fields: Any) -> CheckpointSnapshot:
    status = before.checkpoint.status if done.status is None else done.status
    announced = before.announced | {e.key for e in done.events}
    return replace(
        before, **({"checkpoint": replace(before.checkpoint, status=status), "announced": announced} | fields)
    )


def test_a_published_checkpoint_and_then_silence() -> None:
    first = seen(use(creator()), use(worker(timings={"total": 2.5, "criu": 1.25}), "b"))
    done = plan_checkpoint(first)
    assert done.status is not None
    assert conditions(done) == {"Ready": "True", "Failed": "False", "Quarantined": "False"}
    expected = {
        "generation": "g1",
        "sizeBytes": 1000,
        "size": "0.000GiB",
        "sharedBytes": 400,
        "files": 3,
        "restores": 1,
        "restoreFailures": 0,
        "usedBy": ["p"],
        "lastUsedTime": "2027-01-15T08:00:00Z",
        "timings": {"thaw.total": 2.5, "thaw.criu": 1.25, "freeze": 2.0},
        "counted": ["a/0", "b/0"],
    }
    assert {key: done.status[key] for key in expected} == expected
    assert not plan_checkpoint(again(first, done, now=NOW + 9999))


def test_each_start_counts_once_and_a_restarted_container_is_another() -> None:
    first = seen(use(worker(), "a"), use(worker(), "b"))
    done = plan_checkpoint(first)
    restarted = again(first, done, workers=(use(worker(), "a", restarts=1), use(worker(), "b")))
    second = plan_checkpoint(restarted)
    assert second.status is not None
    assert second.status["restores"] == 3 and second.status["counted"] == ["a/1", "b/0"]
    assert not plan_checkpoint(again(restarted, second))


def test_a_start_counts_when_it_has_ended() -> None:
    going = worker(ready=False, phase=Phase.THAWING, start_mode=None, artifact=None)
    first = seen(use(going))
    done = plan_checkpoint(first)
    assert done.status is not None and done.status["counted"] == []
    ended = plan_checkpoint(again(first, done, workers=(use(failing()),)))
    assert ended.status is not None and ended.status["restoreFailures"] == 1


def test_an_operator_that_starts_anew_counts_nobody_twice() -> None:
    first = seen(use(worker(), "a"), use(worker(), "b"))
    done = plan_checkpoint(first)
    unasked = again(first, done, workers=(), workers_known=False)
    assert not plan_checkpoint(unasked)
    asked = again(unasked, plan_checkpoint(unasked), workers=first.workers, workers_known=True)
    assert not plan_checkpoint(asked)


def test_quarantine_after_as_many_failures_as_a_pool_allows_and_release_by_a_new_generation() -> None:
    snap, uses = seen(use(creator())), [use(creator())]
    snap = again(snap, plan_checkpoint(snap))
    for number in range(3):
        uses.append(use(failing(), f"f{number}"))
        snap = replace(snap, workers=tuple(uses))
        done = plan_checkpoint(snap)
        assert (conditions(done)["Quarantined"] == "True") == (number == 2)
        snap = again(snap, done)
    assert [e.reason for e in done.events if e.type == "Warning"] == ["Quarantined"]
    assert conditions(done)["Ready"] == "False"
    cold = replace(use(creator(artifact=artifact("g2"), uptime=1.0), "new"), answered_at=NOW + 100)
    renewed = plan_checkpoint(replace(snap, workers=(*uses, cold), now=NOW + 100))
    assert renewed.status is not None and renewed.status["generation"] == "g2"
    assert conditions(renewed) == {"Ready": "True", "Failed": "False", "Quarantined": "False"}
    assert renewed.status["restoreFailures"] == 3 and renewed.status["generationFailures"] == 0


@pytest.mark.parametrize("reason", ["StoreUnavailable", "GpuMemoryInsufficient", "CriuRestoreFailed", "OfANewerWorker"])
def test_what_does_not_speak_against_the_artifact_is_shown_and_does_not_count(reason: str) -> None:
    done = plan_checkpoint(seen(use(creator()), *(use(failing(reason=reason), f"f{number}") for number in range(9))))
    assert done.status is not None
    assert (done.status["restoreFailures"], done.status["generationFailures"]) == (9, 0)
    assert conditions(done)["Quarantined"] == "False"


def test_a_thaw_that_works_forgives() -> None:
    """As the workers do among themselves."""
    uses = [use(creator(), "c"), *(use(failing(), f"f{number}") for number in range(3))]
    snap = seen(*uses)
    done = plan_checkpoint(snap)
    assert conditions(done)["Quarantined"] == "True"
    works = replace(use(worker(artifact=artifact("g1"), uptime=1.0), "w"), answered_at=NOW + 100)
    later = plan_checkpoint(replace(again(snap, done), workers=(*uses, works), now=NOW + 100))
    assert later.status is not None and later.status["generationFailures"] == 0
    assert conditions(later) == {"Ready": "True", "Failed": "False", "Quarantined": "False"}


def test_the_worker_that_started_last_knows_the_current_generation() -> None:
    old = use(worker(artifact=artifact("g1"), uptime=500.0), "old")
    new = use(worker(artifact=artifact("g2"), uptime=5.0), "new")
    for order in ((old, new), (new, old)):
        done = plan_checkpoint(seen(*order))
        assert done.status is not None and done.status["generation"] == "g2"


def test_what_the_one_that_started_last_said_holds_when_it_is_gone() -> None:
    """It made a new generation, and was one too many: those that thawed the old one know less."""
    old, maker = use(worker(uptime=500.0), "old"), use(creator(artifact=artifact("g2"), uptime=5.0), "maker")
    snap = seen(old)
    snap = again(snap, plan_checkpoint(snap), workers=(old, maker))
    done = plan_checkpoint(snap)
    assert done.status is not None and done.status["generation"] == "g2"
    snap = again(snap, done, workers=(old,))
    assert (plan_checkpoint(snap).status or snap.checkpoint.status)["generation"] == "g2"
    later = replace(use(worker(artifact=artifact("g3"), uptime=1.0), "later"), answered_at=NOW + 60)
    done = plan_checkpoint(replace(snap, workers=(old, later)))
    assert done.status is not None and done.status["generation"] == "g3"
    assert not plan_checkpoint(again(snap, done, workers=(old, later))), "and that is all"


def test_a_freeze_that_failed() -> None:
    done = plan_checkpoint(seen(use(failed_creator())))
    assert conditions(done) == {"Ready": "False", "Failed": "True", "Quarantined": "False"}
    assert "vernal-worker doctor" in str(done.status)


def test_retention() -> None:
    used = seen(use(creator()))
    used = again(used, plan_checkpoint(used))
    unused = replace(used, users=(), workers=(), now=NOW + 10)
    done = plan_checkpoint(unused)
    assert done.status is not None and done.status["unusedSince"] == "2027-01-15T08:00:10Z"
    assert done.delete is None and done.requeue_after == 3600
    early = again(unused, done, now=NOW + 3609)
    assert not plan_checkpoint(early)
    late = plan_checkpoint(replace(early, now=NOW + 3610))
    assert late.delete is not None and late.delete.uid == unused.checkpoint.uid
    used_again = plan_checkpoint(replace(early, users=(USER,), now=NOW + 3700))
    assert used_again.delete is None and used_again.status is not None
    assert "unusedSince" not in used_again.status


def test_retain_and_the_longest_wish_of_several_pools() -> None:
    keeper = replace(USER, name="k", retain=True, unused_seconds=1)
    snap = seen(use(creator()), users=(USER, keeper))
    done = plan_checkpoint(snap)
    assert done.status is not None and done.status["retention"] == {"retain": True, "unusedSeconds": 3600}
    for_ever = plan_checkpoint(again(snap, done, users=(), workers=(), now=NOW + 1e8))
    assert for_ever.delete is None and for_ever.requeue_after is None


def test_its_time_is_up_and_a_node_that_fits_is_there() -> None:
    used = seen(use(creator()))
    used = again(used, plan_checkpoint(used))
    unused = replace(used, users=(), workers=(), fitting=("a1", "a2"))
    unused = again(unused, plan_checkpoint(unused), now=NOW + 3600)
    kept = plan_checkpoint(replace(unused, gone=frozenset({"a1"})))
    assert kept.delete is None and kept.status is not None and kept.status["keptFor"] == ["a2"]
    assert kept.requeue_after == 3600, "nobody tells that a node has gone"
    later = again(unused, kept, now=NOW + 7200)
    assert not plan_checkpoint(replace(later, gone=frozenset({"a1"})))
    assert plan_checkpoint(replace(later, gone=frozenset({"a1", "a2"}))).delete is not None
    assert plan_checkpoint(replace(later, fitting=())).delete is not None, "no pool makes pods of it any more"


@given(
    since=st.lists(st.integers(0, 5), min_size=1, max_size=6),
    used=st.sets(st.integers(0, 5)),
    most=st.integers(0, 6),
    fits=st.sets(st.integers(0, 5)),
)
def test_of_too_many_unused_ones_the_oldest_go(since: list[int], used: set[int], most: int, fits: set[int]) -> None:
    """Each decides for itself, in any order, and all of them together leave as many as may stay."""
    limits = {"retain": False, "unusedSeconds": 86400, "maxUnused": most}
    views = []
    for number, second in enumerate(since):
        unused = {} if number in used else {"unusedSince": stamp(NOW + second)}
        views.append(replace(view(status={"retention": limits} | unused), name=f"c{number}", uid=f"c{number}"))
    gone = []
    for number, mine in enumerate(views):
        others = tuple(other for other in views if other is not mine)
        node = ("n",) if number in fits else ()
        snap = CheckpointSnapshot(
            now=NOW + 10, checkpoint=mine, users=(USER,) if number in used else (), siblings=others, fitting=node
        )
        if plan_checkpoint(snap).delete is not None:
            gone.append(number)
    unused_ones = sorted((n for n in range(len(since)) if n not in used), key=lambda n: (since[n], f"c{n}"))
    surplus = unused_ones[: max(0, len(unused_ones) - most)]
    assert sorted(gone) == sorted(n for n in surplus if n not in fits)


def test_the_longest_wish_for_a_count() -> None:
    few, some = replace(USER, max_unused=1), replace(USER, name="q", max_unused=3)
    for users, expected in (((few, some), 3), ((few, USER), None)):
        done = plan_checkpoint(seen(use(creator()), users=users))
        assert done.status is not None and done.status["retention"].get("maxUnused") == expected


def test_a_deleted_checkpoint_stays_while_a_pool_uses_it() -> None:
    done = plan_checkpoint(seen(use(creator()), deletion_time=NOW))
    assert done.finalizers is None and not done.create and done.delete is None


def test_the_janitor_removes_the_files_before_the_finalizer_goes() -> None:
    going = seen(users=(), deletion_time=NOW, finalizers=("other/x", FINALIZER))
    [job] = plan_checkpoint(going).create
    assert job["kind"] == "Job" and job["metadata"]["ownerReferences"][0]["uid"] == going.checkpoint.uid
    name = job["metadata"]["name"]
    assert not plan_checkpoint(replace(going, job=JobView(name, "j")))
    done = plan_checkpoint(replace(going, job=JobView(name, "j", succeeded=True)))
    assert done.finalizers == ("other/x",)


def test_a_janitor_that_fails_is_reported_and_run_again() -> None:
    going = seen(users=(), deletion_time=NOW, finalizers=(FINALIZER,))
    failed = replace(going, job=JobView("x-janitor", "j", failed=True, message="BackoffLimitExceeded"))
    told = plan_checkpoint(failed)
    assert conditions(told)["Failed"] == "True" and [e.reason for e in told.events] == ["JanitorFailed"]
    assert "kubectl logs job/x-janitor" in str(told.status) and not told.remove
    waiting = again(failed, told, now=NOW + 30)
    assert not plan_checkpoint(waiting) and plan_checkpoint(waiting).requeue_after == 30
    retried = plan_checkpoint(replace(waiting, now=NOW + 60))
    assert [(r.kind, r.uid) for r in retried.remove] == [("Job", "j")]
    fresh = again(waiting, retried, now=NOW + 61, job=None)
    assert plan_checkpoint(fresh).create
    second = plan_checkpoint(
        again(fresh, plan_checkpoint(fresh), now=NOW + 90, job=JobView("x-janitor", "j2", failed=True))
    )
    assert conditions(second)["Failed"] == "True" and not second.remove, "it is said for a while again"


def test_no_janitor_where_the_files_go_anyway() -> None:
    going = seen(users=(), deletion_time=NOW, finalizers=(FINALIZER,))
    for fields in ({"claim_exists": False}, {"namespace_terminating": True}):
        done = plan_checkpoint(replace(going, **fields))  # type: ignore[arg-type]
        assert done.finalizers == () and not done.create, fields


def test_nothing_is_left_to_do_without_the_finalizer() -> None:
    assert plan_checkpoint(seen(users=(), deletion_time=NOW, finalizers=())) == CheckpointDecisions()
