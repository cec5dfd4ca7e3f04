"""Log lines: one an entry, whatever is in it, in the workers' shape."""

import logging
import re
import sys

from hypothesis import given
from hypothesis import strategies as st
from vernal_operator.logs import LineFormatter

LINE = re.compile(
    r'\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z vernal level=(\w+) logger=(\S+) message=("(?:[^"\\]|\\.)*"|[^\s"=]*)'
    r'( traceback="(?:[^"\\]|\\.)*")?'
)


def line(message: str, exc_info: object = None) -> str:
    record = logging.LogRecord("vernal_operator.act", logging.WARNING, __file__, 1, "%s", (message,), exc_info)  # type: ignore[arg-type]
    return LineFormatter().format(record)


@given(st.text())
def test_one_line_that_can_be_taken_apart(message: str) -> None:
    text = line(message)
    assert LINE.fullmatch(text), text
    assert len(text.splitlines()) == 1


def test_the_words() -> None:
    assert line("VLLMWorkerPool ml/qwen: refused").endswith(
        ' vernal level=warning logger=vernal_operator.act message="VLLMWorkerPool ml/qwen: refused"'
    )


def test_a_traceback_is_part_of_the_line() -> None:
    try:
        raise ValueError("wrong\nin two lines")
    except ValueError:
        text = line("it failed", sys.exc_info())
    found = LINE.fullmatch(text)
    assert found and found[4] and "ValueError: wrong\\nin two lines" in found[4]
