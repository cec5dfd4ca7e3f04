"""The rows are what they say, and the table tells all of them."""

import json

import pytest
from engines import table
from engines.architectures import ROWS as ARCHITECTURES
from engines.asking import encode
from engines.kinds import KINDS
from engines.row import DEVICES, Question, Result, Row
from engines.rows import ROWS
from engines.sentence import own_sentence
from vernal_contract.engine_args import OWNED, canonical_name


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_a_row_can_be_run(row: Row) -> None:
    names = [question.name for question in row.questions]
    assert names and len(set(names)) == len(names)
    assert row.model in KINDS
    assert row.devices and set(row.devices) <= set(DEVICES)
    assert {name for pair in row.unlike for name in pair} <= set(names)
    assert not {canonical_name(name) for name in row.arguments} & set(OWNED)
    for question in row.questions:
        assert question.path.startswith("/")
        if not callable(question.body):  # what is made with torch is made when it is asked
            kind, data = encode(question)
            assert kind.startswith("multipart/form-data") or json.loads(data)


def test_names_are_told_apart_in_the_table_and_as_directories() -> None:
    names = [row.name.replace(" ", "-").replace("/", "-") for row in ROWS]
    assert len(set(names)) == len(names)


def test_a_form_has_its_fields_and_its_file() -> None:
    question = Question("q", "/", {"model": "tiny"}, file=lambda: b"RIFF")
    kind, data = encode(question)
    boundary = kind.partition("boundary=")[2].encode()
    assert data.count(b"--" + boundary) == 3 and data.endswith(b"--" + boundary + b"--\r\n")
    assert b'name="model"\r\n\r\ntiny\r\n' in data
    assert b'name="file"; filename="file.wav"\r\n\r\nRIFF\r\n' in data


def test_the_tone_is_a_wave_file() -> None:
    (question,) = (q for row in ARCHITECTURES for q in row.questions if q.file)
    assert question.file is not None and question.file()[:4] == b"RIFF"


LOG = """\
12:00:01 INFO starting
12:00:01 WARNING ImportError: no module of minor importance
(EngineCore pid=7) ERROR 11-26 [core.py:900] EngineCore failed to start.
(EngineCore pid=7) ERROR 11-26 [core.py:900] Traceback (most recent call last):
(EngineCore pid=7) ERROR 11-26 [core.py:900] ModuleNotFoundError: No module named 'triton'
RuntimeError: Engine core initialization failed. See root cause above. Failed core proc(s): {}
event=exit code=10
"""


def test_the_sentence_is_the_first_error_that_is_about_itself() -> None:
    assert own_sentence(LOG) == "ModuleNotFoundError: No module named 'triton'"
    assert own_sentence("pydantic_core._pydantic_core.ValidationError: 1 error\n") == "ValidationError: 1 error"
    counted = """Traceback (most recent call last)
2026-11-26T14:48:21.924Z engine pydantic_core._pydantic_core.ValidationError: 1 validation error for VllmConfig
2026-11-26T14:48:21.924Z engine   Value error, float32 is not supported. [type=value_error, input_value=ArgsKwargs(()]
2026-11-26T14:48:21.924Z engine     For further information"""
    told = "ValidationError: 1 validation error for VllmConfig Value error, float32 is not supported."
    assert own_sentence(counted).startswith(told)
    assert own_sentence("usage\nargument: unknown option\n\n") == "argument: unknown option"
    assert own_sentence("") == "it said nothing"


EQUAL = Result("Llama", "cpu", "yes, 3.0 s", "yes, 1.2 s", "10 exactly", 3)
UNABLE = Result("FP8 | weights", "cpu", cannot=("ValueError: no",))
FAILED = Result("LoRA", "cpu", found=("base: HTTP 500",))


def test_the_table_has_a_line_for_each_row() -> None:
    lines = table.markdown([EQUAL, UNABLE, FAILED]).splitlines()
    assert len(lines) == 5
    assert lines[2] == "| Llama | cpu | yes, 3.0 s | yes, 1.2 s | 10 exactly | 3 | nothing |"
    assert r"FP8 \| weights" in lines[3] and "vLLM cannot: ValueError: no" in lines[3]
    assert "FAILS: base: HTTP 500" in lines[4]


def test_only_what_was_found_fails() -> None:
    assert [result.ok for result in (EQUAL, UNABLE, FAILED)] == [True, True, False]
    assert table.summary([EQUAL, UNABLE, FAILED]).startswith("1 equal, 1 that vLLM cannot do here")
    assert table.summary([FAILED]).endswith("1 failed: LoRA")
