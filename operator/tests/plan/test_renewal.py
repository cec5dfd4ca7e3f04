"""A new checkpoint that a pool's annotation asks for: one more pod makes it, and none is replaced."""

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from plan.factory import artifact, condition, creator, failed_creator, kept, ready, snapshot, spec, starting
from vernal_operator.plan import plan, renewal
from vernal_operator.plan.census import census
from vernal_operator.plan.model import Decisions, PodView, Snapshot
from vernal_operator.plan.revision import revision
from vernal_operator.plan.rollout import Bounds, Rules, step

NEW = artifact("g2")


def settled(replicas: int = 2, **rollout: Any) -> Snapshot:
    """A pool whose pods thaw g1, and that is asked for a new checkpoint."""
    wanted = spec(replicas=replicas, rollout=rollout)
    pods = [ready(slot) for slot in range(replicas)]
    snap = snapshot(wanted, *pods, revisions=(kept(wanted),))
    for _ in range(3):
        snap, _ = then(snap)
    return replace(snap, pool=replace(snap.pool, renew="now"))


def then(snap: Snapshot, *more: PodView, scaled: int | None = None) -> tuple[Snapshot, Decisions]:
    """What the plan decides, and what the next one sees."""
    done = plan(snap)
    status = snap.pool.status if done.status is None else done.status
    wanted = snap.pool.spec
    if scaled is not None:
        wanted = spec(replicas=scaled)
    announced = snap.announced | {event.key for event in done.events}
    pods = (*snap.pods, *more)
    return replace(snap, pool=replace(snap.pool, status=status, spec=wanted), pods=pods, announced=announced), done


def maker(state: Any = None, slot: int = 2) -> PodView:
    return ready(slot, renew="now", worker=state or creator(artifact=NEW))


def test_one_more_pod_makes_it_and_then_one_goes() -> None:
    snap, done = then(settled())
    assert done.status is not None and not done.create and not done.delete, "written down before it is acted upon"
    assert done.status["renewal"]["outcome"] == "Pending" and done.status["renewal"]["replaces"] == ["g1"]
    _, done = then(snap)
    [pod] = done.create
    assert pod["metadata"]["annotations"] == {"vernal.dev/renew-checkpoint": "now"}
    assert {"name": "VERNAL_RENEW", "value": "g1"} in pod["spec"]["containers"][0]["env"]
    snap, done = then(replace(snap, pods=(*snap.pods, starting(2, renew="now"))))
    assert not done.create and not done.delete
    assert condition(done.status, "Progressing") == ("True", "RenewingCheckpoint")
    assert condition(done.status, "Ready") == ("True", "AllReady")
    snap, done = then(replace(snap, pods=(*snap.pods[:2], maker())))
    assert done.status is not None and not done.delete
    assert done.status["renewal"]["outcome"] == "Renewed" and "g2" in done.status["renewal"]["message"]
    assert [event.reason for event in done.events if "renewal" in event.key] == ["CheckpointRenewed"]
    assert renewal.ended({"renewal": {"request": "now", "outcome": "Pending"}}, done.status) == "Renewed"
    assert renewal.ended(done.status, done.status) is renewal.ended({}, None) is renewal.ended(done.status, {}) is None
    snap, done = then(snap)
    assert [victim.reason for victim in done.delete] == ["ScaleDown"]
    left = replace(snap, pods=tuple(pod for pod in snap.pods if pod.name != done.delete[0].name))
    left, _ = then(left)
    last = plan(left)
    assert last.status is None and not (last.create or last.delete or last.events), "the same text asks once"


def test_pods_of_later_do_not_thaw_what_was_replaced_either() -> None:
    """On another kind of node nobody has made the new one yet."""
    snap, _ = then(settled())
    snap, _ = then(replace(snap, pods=(*snap.pods, maker())))
    grown = replace(snap, pool=replace(snap.pool, spec=spec(replicas=4)))
    [pod] = plan(grown).create
    assert {"name": "VERNAL_RENEW", "value": "g1"} in pod["spec"]["containers"][0]["env"]


def test_another_text_asks_again_and_none_asks_for_nothing() -> None:
    snap, _ = then(settled())
    snap, _ = then(replace(snap, pods=(*snap.pods, maker())))
    again = plan(replace(snap, pool=replace(snap.pool, renew="again"))).status
    assert again is not None
    assert (again["renewal"]["request"], again["renewal"]["outcome"]) == ("again", "Pending")
    nothing = plan(replace(snap, pool=replace(snap.pool, renew=""))).status
    assert nothing is not None and "renewal" not in nothing


def test_a_worker_that_makes_none_ends_it_with_its_words() -> None:
    snap, _ = then(settled())
    snap, done = then(replace(snap, pods=(*snap.pods, maker(failed_creator()))))
    assert done.status is not None and done.status["renewal"]["outcome"] == "Failed"
    [event] = [event for event in done.events if "renewal" in event.key]
    assert (event.type, event.reason) == ("Warning", "RenewalFailed") and "no: to try again" in event.message
    grown = replace(snap, pool=replace(snap.pool, spec=spec(replicas=4)))
    assert "VERNAL_RENEW" not in str(plan(grown).create), "from then on pods thaw what there is"


@pytest.mark.parametrize("replicas", [0, 2])
def test_without_a_place_it_waits_for_the_next_pod(replicas: int) -> None:
    rollout = {"maxSurge": 0, "maxUnavailable": 1} if replicas else {}
    snap, _ = then(settled(replicas, **rollout))
    _, done = then(snap)
    assert not done.create and not done.delete
    lost = replace(snap, pods=snap.pods[1:], pool=replace(snap.pool, spec=spec(replicas=1 if not replicas else 2)))
    [pod] = plan(lost).create
    assert "VERNAL_RENEW" in str(pod)


def test_a_change_of_scale_keeps_who_makes_it() -> None:
    snap, _ = then(settled(3))
    snap = replace(snap, pods=(*snap.pods, starting(3, renew="now")))
    less = replace(snap, pool=replace(snap.pool, spec=spec(replicas=1)))
    asked = {pod.name for pod in less.pods[:3]}
    done = plan(less)
    assert {victim.name for victim in done.delete} < asked and len(done.delete) == 2
    more = plan(replace(snap, pool=replace(snap.pool, spec=spec(replicas=4))))
    assert not more.create and not more.delete, "who makes it is the fourth"


@given(
    replicas=st.integers(0, 5),
    surge=st.integers(0, 3),
    others=st.integers(0, 7),
    serving=st.lists(st.booleans(), max_size=4),
)
def test_steps_end_with_one_maker_and_all_replicas(replicas: int, surge: int, others: int, serving: list[bool]) -> None:
    """Whatever there is: the steps converge to R others and one maker, or R in all where there is no place."""
    now, limits, wanted = 1e9, Bounds(replicas, surge, 1), spec(replicas=replicas)
    pods = [ready(slot) for slot in range(others)]
    pods += [ready(50 + n, renew="now") if ok else starting(50 + n, renew="now") for n, ok in enumerate(serving)]
    pods = [replace(pod, polled_at=now, answered_at=now) for pod in pods]
    for turn in range(20):
        seen = census(pods, revision(wanted), wanted, now)
        rules = Rules(released=True, makers=frozenset(pod.uid for pod in pods if pod.renew))
        done = step(seen, limits, rules, now)
        if not done.grow and not done.delete:
            break
        gone = {pod.uid for pod, _ in done.delete}
        assert not gone or len(pods) > replicas
        before = len(pods)
        pods = [pod for pod in pods if pod.uid not in gone]
        pods += [starting(100 * (turn + 1) + n, renew="now", polled_at=now) for n in range(done.grow)]
        assert len(pods) <= max(before, limits.ceiling)
    makers = sum(bool(pod.renew) for pod in pods)
    assert replicas <= len(pods) <= replicas + (surge > 0 and replicas > 0)
    assert makers >= 1 or not surge or not replicas
