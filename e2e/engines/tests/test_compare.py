"""What counts as a difference between two workers' answers."""

import copy
import math
from typing import Any

import pytest
from engines.compare import NOISE, VOLATILE, Compared, counters, differences, found, look_up, message, size
from engines.row import Answer, Asked, Question, Row
from hypothesis import given
from hypothesis import strategies as st

numbers = st.floats(-1e6, 1e6)
values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | numbers | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=6), inner, max_size=4),
    max_leaves=12,
)


@given(values)
def test_nothing_differs_from_itself(value: Any) -> None:
    assert not list(differences(value, copy.deepcopy(value)))


@given(values, values)
def test_it_does_not_matter_which_came_first(one: Any, other: Any) -> None:
    assert bool(list(differences(one, other))) == bool(list(differences(other, one)))


@given(numbers, st.floats(-0.9, 0.9))
def test_numbers_differ_by_noise(value: float, part: float) -> None:
    assert not list(differences({"logprob": value}, {"logprob": value + part * NOISE * max(1.0, abs(value))}))


@given(numbers, st.floats(2.1, 1e3), st.sampled_from([-1, 1]))
def test_and_by_no_more(value: float, times: float, sign: int) -> None:
    assert list(differences([value], [value + sign * times * NOISE * max(1.0, abs(value))]))


@given(values, values, st.sampled_from(sorted(VOLATILE)))
def test_what_is_new_in_every_answer_does_not_differ(one: Any, other: Any, key: str) -> None:
    assert not list(differences([{key: one, "text": "a"}], [{key: other, "text": "a"}]))


@given(values, st.lists(values, min_size=1, max_size=3))
def test_what_is_missing_differs(value: Any, more: list[Any]) -> None:
    assert list(differences([value], [value, *more]))
    assert list(differences({"text": value}, {}))


@pytest.mark.parametrize(
    ("one", "other"),
    [(5, 6), ("a", "b"), (True, 1), (None, 0), (0, ""), (math.nan, math.nan), (1.0, math.inf), ([1], {"0": 1})],
)
def test_these_differ(one: Any, other: Any) -> None:
    assert list(differences(one, other))


def test_infinities_are_themselves() -> None:
    assert not list(differences(-math.inf, -math.inf))
    assert list(differences(-math.inf, math.inf))


def test_whole_numbers_have_no_noise() -> None:
    assert list(differences(10**9, 10**9 + 1))


def test_a_difference_has_its_place_and_both_values() -> None:
    before = {"id": "a", "choices": [{"text": "yes", "logprobs": [-1.5, -2.0]}]}
    after = {"id": "b", "choices": [{"text": "no", "logprobs": [-1.5, -2.5]}]}
    assert list(differences(before, after)) == [
        "choices.0.text: 'yes', after the thaw 'no'",
        "choices.0.logprobs.1: -2, after the thaw -2.5",
    ]


def test_how_much_is_looked_at() -> None:
    assert size({"id": "x", "text": "a", "ids": [1, 2], "logprobs": [-0.5, -0.25]}) == Compared(exact=3, near=2)


@given(values)
def test_as_many_values_are_looked_at_as_there_are(value: Any) -> None:
    def leaves(value: Any) -> int:
        if isinstance(value, dict):
            return sum(leaves(inner) for key, inner in value.items() if key not in VOLATILE)
        return sum(map(leaves, value)) if isinstance(value, list) else 1

    amount = size(value)
    assert amount.exact + amount.near == leaves(value)


def test_values_are_found_by_path() -> None:
    content = {"choices": [{"message": {"tool_calls": [{"function": {"name": "start"}}]}}]}
    assert look_up(content, "choices.0.message.tool_calls.0.function.name") == "start"
    assert look_up(content, "choices.1.text") is None
    assert look_up("text", "choices") is None


EXPOSITION = """\
# TYPE vllm:drafts_total counter
vllm:drafts_total{engine="0",model_name="tiny"} 12.0
vllm:drafts_total{engine="1",model_name="tiny"} 3.0
vllm:drafts_total_created{engine="0"} 1.7e9
vllm:other 5
"""


def test_counters_are_sums_over_labels() -> None:
    assert counters(EXPOSITION, ("vllm:drafts_total", "absent")) == {"vllm:drafts_total": 15.0, "absent": 0.0}


# --- a whole row ---

BASE, ADAPTER = Question("base", "/v1/completions", {}), Question("adapter", "/v1/completions", {})
ROW = Row("LoRA", "llama", (BASE, ADAPTER), unlike=(("base", "adapter"),), counters=("drafts",))


def asked(base: str = "a", adapter: str = "b", drafts: float = 2, status: int = 200) -> Asked:
    def answer(text: str) -> Answer:
        return Answer(status, {"choices": [{"text": text}]} if status == 200 else {"error": {"message": "no\n such"}})

    return Asked({"base": answer(base), "adapter": answer(adapter)}, {"drafts": drafts})


def test_nothing_speaks_against_an_equal_row() -> None:
    assert found(ROW, asked(), asked()) == []


def test_another_answer_does() -> None:
    (text,) = found(ROW, asked(), asked(base="c"))
    assert text == "base: choices.0.text: 'a', after the thaw 'c'"


def test_an_adapter_that_answers_like_the_base_does() -> None:
    """As if the adapter had been lost before the freeze, so that both workers say the same."""
    assert found(ROW, asked(adapter="a"), asked(adapter="a")) == [
        "base and adapter are answered alike before the freeze",
        "base and adapter are answered alike after the thaw",
    ]


def test_another_number_of_accepted_drafts_does() -> None:
    assert found(ROW, asked(), asked(drafts=3)) == ["drafts: 2, after the thaw 3"]


def test_a_row_that_did_nothing_of_its_kind_does() -> None:
    assert found(ROW, asked(drafts=0), asked(drafts=0)) == ["drafts is 0: nothing of this kind happened"]


def test_an_error_does_even_if_both_have_it() -> None:
    texts = found(ROW, asked(status=400), asked(status=400))
    assert texts[0] == "base: before the freeze: HTTP 400: no such"
    assert sum("HTTP 400" in text for text in texts) == 4


def test_what_plain_vllm_cannot_do_does_not() -> None:
    assert found(ROW, asked(status=400), asked(status=400), frozenset({"base", "adapter"})) == []


def test_an_answer_of_another_kind_does() -> None:
    row = Row("choice", "llama", (Question("base", "/", {}, shows={"choices.0.text": "yes|no"}),))
    assert found(row, asked(base="yes"), asked(base="yes")) == []
    (before, after) = found(row, asked(base="yes!"), asked(base="yes!"))
    assert before == "base: before the freeze: choices.0.text is 'yes!', which does not match yes|no"
    assert "after the thaw" in after


def test_few_of_many_differences_are_told() -> None:
    row = Row("many", "llama", (BASE,))
    one, other = (Asked({"base": Answer(200, {"ids": list(range(start, start + 20))})}, {}) for start in (0, 100))
    texts = found(row, one, other)
    assert len(texts) == 4 and texts[-1] == "base: 17 more"


def test_an_error_is_one_line() -> None:
    assert message(Answer(500, {"error": {"message": "a\n b"}})) == "a b"
    assert message(Answer(0, "gone")) == "gone"
