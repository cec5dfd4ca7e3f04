"""An engine's answers before and after."""

import math
from collections.abc import Iterator

import pytest
from vernal_worker.control.protocol import Canary
from vernal_worker.supervisor import oracle

BEFORE = Canary(prompts=[[1], [2]], answers=[[5, 6, 7], [8, 9]], margins=[[3.0, 0.0078125, 1.0], [2.0, 2.0]])
FLIPPED = Canary(prompts=[[1], [2]], answers=[[5, 4, 7], [8, 9]], margins=[[3.0, 0.0, 1.0], [2.0, 2.0]])


def test_equal_answers_are_equal_whatever_their_margins() -> None:
    other = Canary(prompts=BEFORE.prompts, answers=BEFORE.answers, margins=[[0.1, 0.1, 0.1], [0.1, 0.1]])
    assert oracle.difference(BEFORE, other) is None
    assert oracle.difference(BEFORE, Canary(prompts=BEFORE.prompts, answers=BEFORE.answers)) is None


def test_what_differs_is_named_with_the_margin_that_it_had() -> None:
    problem = oracle.difference(BEFORE, FLIPPED) or ""
    assert "prompt 0, token 1" in problem and "[6]" in problem and "[4]" in problem and "0.007812" in problem
    assert "prompt 1" not in problem


def test_an_answer_that_ends_early_and_other_prompts() -> None:
    short = Canary(prompts=BEFORE.prompts, answers=[[5, 6], [8, 9]])
    assert "token 2: before the freeze [7]" in (oracle.difference(BEFORE, short) or "")
    assert "other prompts" in (oracle.difference(BEFORE, Canary(prompts=[], answers=[])) or "")


def test_it_is_asked_twice_at_most() -> None:
    def answers(*each: Canary) -> Iterator[Canary]:
        yield from each

    flaky = answers(FLIPPED, BEFORE)
    assert oracle.check(lambda: next(flaky), BEFORE) is None
    wrong = answers(FLIPPED, FLIPPED, BEFORE)
    assert "token 1" in (oracle.check(lambda: next(wrong), BEFORE) or "")
    assert next(wrong) == BEFORE


VECTORS = Canary(prompts=[[1], [2]], vectors=[[1.0, -2.0, 0.001], [0.5]])


@pytest.mark.parametrize(
    ("vectors", "named"),
    [
        ([[1.01, -2.02, 0.0], [0.5]], ""),
        ([[1.0, -2.0, 0.1], [0.5]], "prompt 0: values differ by up to 0.05"),
        ([[1.0, -2.0, 0.001], [-0.5]], "prompt 1: values differ"),
        ([[1.0, -2.0], [0.5]], "before the freeze 3 values, now 2"),
        ([[math.nan, -2.0, 0.001], [0.5]], "prompt 0: values differ by up to inf"),
        ([], "another task"),
    ],
)
def test_values_are_equal_within_what_arithmetic_explains(vectors: list[list[float]], named: str) -> None:
    problem = oracle.difference(VECTORS, Canary(prompts=VECTORS.prompts, vectors=vectors))
    assert (problem is None) if not named else (problem is not None and named in problem)


def test_a_model_that_generates_and_one_that_does_not_are_not_equal() -> None:
    assert BEFORE.prompts == VECTORS.prompts
    assert "another task" in (oracle.difference(BEFORE, VECTORS) or "")
    assert oracle.difference(VECTORS, VECTORS) is None
