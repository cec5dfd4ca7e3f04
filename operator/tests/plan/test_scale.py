"""Who goes first when there are too many."""

from collections.abc import Sequence
from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st
from plan.factory import NOW, pending, ready, snapshot, spec, starting, worker
from vernal_operator.plan import plan
from vernal_operator.plan.census import census
from vernal_operator.plan.model import PodView
from vernal_operator.plan.revision import revision
from vernal_operator.plan.scale import FRESH_SECONDS, Choice
from vernal_operator.plan.scale import choose as choose_among

WANTED = revision(spec())


def choose(pods: Sequence[PodView], count: int) -> Choice:
    return choose_among(census(pods, WANTED, spec(), NOW), pods, count, NOW)


def names(pods: tuple[PodView, ...]) -> list[str]:
    return [pod.name for pod in pods]


def test_the_order() -> None:
    in_order = [
        pending(0, name="unscheduled"),
        pending(1, name="pending", scheduled=True),
        starting(2, name="not-ready"),
        ready(3, name="cheap", deletion_cost=-5, in_flight=9),
        ready(4, name="old", revision="old", in_flight=9),
        ready(5, name="idle-and-new", created=NOW - 10, ready_since=NOW - 5),
        ready(6, name="idle"),
        ready(7, name="busy", in_flight=3),
        ready(8, name="dear", deletion_cost=5),
    ]
    for count in range(len(in_order) + 1):
        choice = choose(list(reversed(in_order)), count)
        assert set(names(choice.victims)) == {p.name for p in in_order[:count]} and not choice.ask


def test_requests_in_flight_are_asked_for_only_where_they_decide() -> None:
    pods = [ready(i, polled_at=NOW - 1 - FRESH_SECONDS) for i in range(3)]
    assert choose(pods, 0).ask == frozenset()
    assert choose(pods, 3).ask == frozenset(), "all go"
    some = choose([*pods, starting(7)], 2)
    assert names(some.victims) == [starting(7).name], "what is certain is not held up"
    assert some.ask == frozenset(names(tuple(pods)))
    assert choose([*pods, starting(7)], 1).ask == frozenset()


def test_one_stale_answer_makes_all_be_asked_so_that_they_are_fresh_together() -> None:
    pods = [ready(0, polled_at=NOW - 2 * FRESH_SECONDS), ready(1), ready(2)]
    assert choose(pods, 1).ask == frozenset(names(tuple(pods)))


def test_a_worker_that_does_not_answer_is_asked_once_and_counts_as_busiest() -> None:
    silent = replace(ready(0), worker=None, answered_at=None)
    busy = ready(1, in_flight=50)
    assert names(choose([silent, busy], 1).victims) == [busy.name]
    both = [silent, replace(ready(2), worker=None, answered_at=None)]
    assert len(choose(both, 1).victims) == 1, "nothing waits for them for ever"


def test_an_answer_from_before_the_last_attempt_does_not_count() -> None:
    gone_silent = ready(0, in_flight=0, answered_at=NOW - 60)
    assert names(choose([gone_silent, ready(1, in_flight=5)], 1).victims) == [ready(1).name]


@given(st.permutations([ready(i, in_flight=i) for i in range(6)]), st.integers(0, 6))
def test_the_order_of_the_list_does_not_matter(pods: list[PodView], count: int) -> None:
    assert sorted(names(choose(pods, count).victims)) == sorted(
        names(tuple(sorted(pods, key=lambda p: p.slot)[:count]))
    )


def test_scale_down_first_asks_then_deletes_the_idle_ones() -> None:
    wanted = spec(replicas=1)
    asked_long_ago = [ready(i, polled_at=NOW - 99, answered_at=NOW - 99) for i in range(3)]
    first = plan(snapshot(wanted, *asked_long_ago))
    assert not first.delete and len(first.poll) == 3
    answered = [ready(i, worker=worker(f"p-{i}", in_flight=n)) for i, n in enumerate((4, 0, 7))]
    second = plan(snapshot(wanted, *answered))
    assert {(d.name, d.uid, d.resource_version, d.reason) for d in second.delete} == {
        (answered[0].name, answered[0].uid, "1", "ScaleDown"),
        (answered[1].name, answered[1].uid, "1", "ScaleDown"),
    }
