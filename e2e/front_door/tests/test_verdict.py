"""What a soak finds wrong, and what the table of first requests says: without a worker."""

from typing import Any

import pytest
from front_door import bad, first, verdict
from front_door.first import Row
from front_door.verdict import Measured, Report
from vernal_worker.engine import warm

KINDS = [kind.__name__ for kind in bad.KINDS]
WELL = {"outcome": {"whole": 16}, "whole": [2] * 8, "slowest": 1.0}
BUSY: dict[str, Any] = {"done": dict.fromkeys(KINDS, 3), "connected": dict.fromkeys(KINDS, 3), "failed": {}}


def test_nothing_lost_is_nothing_wrong() -> None:
    assert verdict.of_the_good(WELL) == verdict.of_the_bad(BUSY, KINDS) == []
    assert verdict.of_the_log("event=phase\nevent=drained\n") == []
    at_rest = Measured({"Worker": 500.0}, {"Worker": 40})
    assert verdict.of_what_is_left(at_rest, at_rest) == []


@pytest.mark.parametrize(
    ("good", "said"),
    [
        ({}, "no client got anything"),
        ({**WELL, "outcome": {"whole": 9, "other text, _chat": 1}}, "other text, _chat: 1"),
        ({**WELL, "whole": [2] * 7 + [0]}, "client 7 got nothing"),
    ],
)
def test_what_a_good_client_lost(good: dict[str, Any], said: str) -> None:
    (problem,) = verdict.of_the_good(good)
    assert said in problem


@pytest.mark.parametrize("kind", sorted(set(KINDS)))
def test_a_misbehaviour_that_did_nothing_proves_nothing(kind: str) -> None:
    without = {**BUSY, "connected": {**BUSY["connected"], kind: 0}}
    assert verdict.of_the_bad(without, KINDS) == [f"misbehaviour {kind} never connected"]
    dead = {**BUSY, "failed": {kind: "KeyError('x')"}}
    assert verdict.of_the_bad(dead, KINDS) == [f"misbehaviour {kind} ended with KeyError('x')"]
    assert len(verdict.of_the_bad({}, KINDS)) == len(set(KINDS))


def test_what_is_left() -> None:
    before = Measured({"Worker": 500.0, "API server": 500.0}, {"Worker": 40, "API server": 40})
    after = Measured({"Worker": 600.0, "API server": 510.0}, {"Worker": 40, "API server": 41})
    assert verdict.of_what_is_left(before, after) == [
        "Worker grew from 500 to 600 MB",
        "API server has 41 descriptors, 40 before",
    ]


def test_a_traceback_of_an_orderly_exit_is_wrong() -> None:
    found = verdict.of_the_log("engine Traceback (most recent call last):\nengine   vllm.EngineDeadError: dead\n")
    assert len(found) == 2 and "EngineDeadError" in found[1]


def test_the_slope_is_that_of_the_second_half() -> None:
    """It warms up by 100 MB, and then leaks 2 MB a minute."""
    samples = [(30.0 * n, {"Worker": 100.0 * min(n, 5) + max(0, n - 5)}) for n in range(20)]
    assert verdict.slopes(samples)["Worker"] == pytest.approx(2.0)
    assert verdict.slopes(samples[:1]) == {}
    before = after = Measured({"Worker": 1.0}, {"Worker": 1})
    assert "+2.00" in Report(1.0, before=before, after=after, slopes=verdict.slopes(samples)).render()


def test_the_table_marks_what_is_late_and_names_what_is_refused() -> None:
    rows = {first.VERY_FIRST: Row(0.5, 0.1), "plain": Row(0.1, 0.1), "score": Row(refused=404)}
    text = first.render(rows, {**rows, first.VERY_FIRST: Row(0.1, 0.1)})
    assert "500 ms (over twice) | 100 ms | 100 ms | 100 ms |" in text
    assert "| score | refused: 404 | | refused: 404 | |" in text
    assert f"a plain start, first over twice the second: 1 of 2: {first.VERY_FIRST}" in text
    assert "a thawed worker, first over twice the second: 0 of 2: none" in text


def leaves(value: Any) -> list[Any]:
    if isinstance(value, dict):
        return [leaf for each in value.values() for leaf in leaves(each)]
    return [leaf for each in value for leaf in leaves(each)] if isinstance(value, list) else [value]


@pytest.mark.parametrize("kind", warm.requests("tiny", []))
def test_what_is_asked_is_not_what_warmed_up(kind: str) -> None:
    _, body = warm.requests("tiny", [])[kind]
    asked = first.other(body)
    assert asked != body and asked.keys() == body.keys()
    assert warm._PROMPT not in leaves(asked)
    assert str(warm._SCHEMA) not in str(asked)
