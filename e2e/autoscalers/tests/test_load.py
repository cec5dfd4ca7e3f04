"""What becomes of requests is added up, and answers that differ are found."""

from collections import Counter

from autoscalers.load import Answers


def test_answers_are_added_up() -> None:
    both = Answers(2, Counter(late=1), {"a": {"x"}}) + Answers(3, Counter(late=1, cut=1), {"a": {"x"}, "b": {"y"}})
    assert both.whole == 5 and both.asked == 8
    assert both.lost == Counter(late=2, cut=1)
    assert both.alike


def test_workers_that_answer_the_same_prompt_otherwise_are_found() -> None:
    assert not (Answers(1, Counter(), {"a": {"x"}}) + Answers(1, Counter(), {"a": {"y"}})).alike
