"""When a checkpoint is quarantined: nobody counts more than it started, nor gives up what others use with success."""

from dataclasses import replace
from typing import Any

import msgspec
from hypothesis import given
from hypothesis import strategies as st
from plan.factory import NOW, artifact, creator, worker
from plan.test_retention import USER, again, conditions, failing, seen, use
from vernal_contract.state import StartMode, WorkerState
from vernal_operator.plan import plan_checkpoint
from vernal_operator.plan.model import CheckpointSnapshot, WorkerUse

OTHER = replace(USER, name="q")
EARLY = replace(OTHER, restore_attempts=1)


def of(pool: str, state: WorkerState, uid: str, **fields: Any) -> WorkerUse:
    return replace(use(state, uid), pool=pool, **fields)


def said(state: WorkerState, **fields: Any) -> WorkerState:
    return msgspec.structs.replace(state, **fields)


def finds_quarantined(generation: str = "g1", **fields: Any) -> WorkerState:
    message = f"{generation} failed 3 times, last on p-1: CriuRestoreFailed in stage criu: no"
    told = {"start_reason": "Quarantined", "start_message": message, "start_mode": StartMode.COLD, "artifact": None}
    return worker(**(told | fields))


def quarantined(snapshot: CheckpointSnapshot) -> bool:
    return conditions(plan_checkpoint(snapshot))["Quarantined"] == "True"


def test_who_names_a_new_start_at_each_read_counts_once_for_each_container() -> None:
    snap = seen(use(creator(), "c"))
    snap = again(snap, plan_checkpoint(snap))
    for read in range(9):
        liar = use(said(failing(), start_id=f"made-up-{read}"), "liar", restarts=read // 8)
        snap = replace(snap, workers=(use(creator(), "c"), liar))
        snap = again(snap, plan_checkpoint(snap))
    assert snap.checkpoint.status["restoreFailures"] == 2
    assert not quarantined(replace(snap, now=NOW + 1, workers=(*snap.workers, use(worker(), "d"))))


def test_who_stops_to_say_so_and_begins_again_counts_once() -> None:
    """With nothing said there is no use of the checkpoint, but the pod is there."""
    snap = replace(seen(use(creator(), "c")), pods=frozenset({"c", "liar"}))
    snap = again(snap, plan_checkpoint(snap))
    for read in range(6):
        liar = (use(said(failing(), start_id=f"made-up-{read}"), "liar"),) if read % 2 else ()
        snap = replace(snap, workers=(use(creator(), "c"), *liar))
        snap = again(snap, plan_checkpoint(snap))
    assert snap.checkpoint.status["restoreFailures"] == 1
    gone = again(snap, plan_checkpoint(snap), workers=(use(creator(), "c"),), pods=frozenset({"c"}))
    done = plan_checkpoint(gone)
    assert done.status is not None and done.status["counted"] == ["c/0"]


def test_a_start_counts_once_however_many_failures_it_tells_of() -> None:
    failure = failing().restore_failures[0]
    done = plan_checkpoint(seen(use(creator(), "c"), use(said(failing(), restore_failures=[failure] * 20), "liar")))
    assert done.status is not None
    assert (done.status["restoreFailures"], done.status["generationFailures"]) == (1, 1)


def test_a_start_whose_name_is_a_number_is_one_like_others() -> None:
    first = seen(use(said(failing(), start_id="1234567890123456"), "a"))
    snap = again(first, plan_checkpoint(first))
    later = replace(snap, workers=(use(said(failing(), start_id="b"), "a", restarts=1),))
    done = plan_checkpoint(later)
    assert done.status is not None and done.status["restoreFailures"] == 2
    assert done.status["counted"] == ["a/1", "a/b"]


@given(st.lists(st.tuples(st.sampled_from(["a", "b"]), st.integers(0, 3), st.sampled_from(["", "x", "y", "7"]))))
def test_no_order_of_answers_counts_more_starts_than_there_were(reads: list[tuple[str, int, str]]) -> None:
    snap, most = seen(use(creator(), "c")), {"a": 0, "b": 0}
    for uid, restarts, start in reads:
        most[uid] = max(most[uid], restarts)
        snap = replace(
            snap, workers=(use(said(failing(), start_id=start), uid, restarts=most[uid]),), pods=frozenset("abc")
        )
        snap = again(snap, plan_checkpoint(snap))
    starts = sum(1 + most[uid] for uid in {uid for uid, _, _ in reads})
    assert snap.checkpoint.status.get("restoreFailures", 0) <= starts
    assert len(snap.checkpoint.status.get("counted", [])) <= 5


def test_a_pool_that_gives_up_early_gives_up_for_itself_alone() -> None:
    uses = (of("p", worker(), "a"), of("q", failing(), "b"))
    assert not quarantined(seen(*uses, users=(USER, EARLY))), "p, which allows three, thaws it"
    assert quarantined(seen(of("p", creator(artifact=artifact("g1")), "a"), uses[1], users=(USER, EARLY)))
    assert quarantined(seen(uses[1], users=(USER, EARLY), status={"generation": "g1"}))


def test_failures_that_speak_against_it_quarantine_it_for_all() -> None:
    failures = (of("q", failing(), f"b{number}") for number in range(3))
    assert quarantined(seen(of("p", worker(uptime=500.0), "a"), *failures, users=(USER, EARLY)))


def test_failures_of_several_pools_add_up() -> None:
    uses = (of("p", failing(), "a"), of("p", failing(), "b"), of("q", failing(), "c"))
    assert quarantined(seen(use(creator(), "m"), *uses, users=(USER, OTHER)))


def test_a_workers_word_speaks_for_its_own_pool() -> None:
    """What it found in the store may be what its pool alone allows, or made up."""
    thaws, finds = of("p", worker(uptime=500.0), "a"), of("q", finds_quarantined(), "b")
    assert not quarantined(seen(thaws, finds, users=(USER, OTHER)))
    assert quarantined(seen(thaws, finds, of("p", finds_quarantined(), "c"), users=(USER, OTHER)))
    assert quarantined(seen(of("q", worker(uptime=500.0), "a"), finds, users=(USER, OTHER)))
    assert quarantined(seen(finds, users=(USER, OTHER), status={"generation": "g1"}))


def test_a_thaw_that_works_forgives_what_a_worker_found_before() -> None:
    """And for good: the worker that found it so is there for days."""
    finds = use(finds_quarantined(uptime=500.0), "a")
    snap = seen(use(creator(uptime=900.0), "c"), finds)
    assert quarantined(snap)
    snap = again(snap, plan_checkpoint(snap), workers=(*snap.workers, use(worker(uptime=5.0), "w")))
    for _ in range(2):
        done = plan_checkpoint(snap)
        snap = again(snap, done)
    assert {c["type"]: c["status"] for c in snap.checkpoint.status["conditions"]}["Quarantined"] == "False"


def test_a_worker_that_found_one_quarantined_and_made_the_next_says_nothing_of_that() -> None:
    maker = use(finds_quarantined("g1", artifact=artifact("g2"), uptime=5.0), "m")
    snap = seen(maker, status={"generation": "g1"})
    assert not quarantined(snap)
    snap = again(snap, plan_checkpoint(snap))
    assert not plan_checkpoint(snap), "nor later"


def test_a_start_is_not_later_than_its_container_allows() -> None:
    """Else a generation that is made up with each read would be the last word for ever."""
    honest = replace(use(worker(artifact=artifact("g1"), uptime=100.0), "a"), container_started=NOW - 101)
    liar = use(worker(artifact=artifact("g9"), uptime=-1e9), "liar")
    assert liar.started == NOW, "no worker is of tomorrow"
    liar = replace(use(worker(artifact=artifact("g9"), uptime=0.0), "liar"), container_started=NOW - 5000)
    done = plan_checkpoint(seen(liar, honest))
    assert done.status is not None and done.status["generation"] == "g1"
