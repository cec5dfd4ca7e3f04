"""Workers are read in transition, at a bounded rate, and never again once they have told how they started."""

from dataclasses import replace

import pytest
from plan.factory import NOW, pending, ready, snapshot, spec, starting, worker
from vernal_operator.plan import plan
from vernal_operator.plan.model import PodView
from vernal_operator.plan.polling import SETTLING_SECONDS, SILENT_SECONDS, STARTING_SECONDS, due, was_asked

SILENT = replace(ready(0), worker=None, answered_at=None)
NOT_YET = ready(0, worker=worker(ready=False))


@pytest.mark.parametrize(
    ("pod", "after"),
    [
        (pending(0), None),
        (pending(0, scheduled=True), None),
        (starting(0, polled_at=None), 0.0),
        (starting(0), STARTING_SECONDS),
        (replace(ready(0), worker=None, answered_at=None, polled_at=None), 0.0),
        (replace(NOT_YET, ready_since=NOW - 1), SETTLING_SECONDS),
        (NOT_YET, SILENT_SECONDS),  # ready for Kubernetes for long, but not for itself
        (SILENT, SILENT_SECONDS),
        (ready(0), None),
        (replace(starting(0), deletion_time=NOW + 60), None),
    ],
)
def test_when_a_worker_is_read(pod: PodView, after: float | None) -> None:
    now_due, later = due([pod], NOW)
    assert (pod.name in now_due) == (after == 0.0)
    assert later == (None if not after else NOW + after)
    if after:
        assert due([pod], NOW + after) == (frozenset({pod.name}), None)


def test_nothing_waits_for_ever_for_a_worker_to_speak() -> None:
    assert was_asked(ready(0)) and was_asked(SILENT) and was_asked(NOT_YET)
    assert not was_asked(replace(SILENT, polled_at=None))
    assert not was_asked(replace(NOT_YET, ready_since=NOW - 1))


def test_the_plan_comes_back_for_the_next_read() -> None:
    done = plan(snapshot(spec(), starting(0)))
    assert not done.poll and done.requeue_after == STARTING_SECONDS
    assert plan(snapshot(spec(), starting(0, polled_at=NOW - STARTING_SECONDS))).poll == {starting(0).name}


def test_a_worker_that_was_read_ahead_of_the_clock_is_read_now() -> None:
    """The clock was set back since. What is not written down cannot be counted from now on."""
    assert due([starting(0, polled_at=NOW + 3600)], NOW) == (frozenset({starting(0).name}), None)
    assert due([replace(SILENT, polled_at=NOW + 3600)], NOW) == (frozenset({SILENT.name}), None)
