"""From what vLLM 0.32 wrote when it did not start."""

import traceback
from typing import TypeVar

import httpx
import jinja2
import pytest
from vernal_worker.supervisor.rootcause import cause

Raised = TypeVar("Raised", bound=BaseException)

CORE = "(EngineCore pid=44) ERROR 11-25 16:17:09 [core.py:1510] "
WORKER = "(Worker pid=52) ERROR 11-25 16:24:24 [multiproc_executor.py:1063] "
AFTER = [
    "Traceback (most recent call last):",
    '  File "/vllm/v1/engine/utils.py", line 1351, in launch_core_engines',
    "    raise RuntimeError(",
    "RuntimeError: Engine core initialization failed. See root cause above. Failed core proc(s): {'EngineCore': 1}",
    "/root/lib/multiprocessing/resource_tracker.py:254: UserWarning: resource_tracker: There appear to be 1 leaked",
    "  warnings.warn('resource_tracker: There appear to be %d '",
]
SEQUENCE = "ValueError: To serve at least one request with the model's max seq len (1024), 0.0 GiB KV cache is needed"
MEMORY = "ValueError: Available memory on node 0 (17.68/20.34 GiB) is less than requested memory for kv (100000.0 GiB)."


@pytest.mark.parametrize(
    "lines, expected",
    [
        ([CORE + "Traceback (most recent call last):", CORE + SEQUENCE, *AFTER], SEQUENCE),
        ([WORKER + MEMORY, CORE + "RuntimeError: Worker failed with error '" + MEMORY[12:], *AFTER], MEMORY),
        (
            [
                WORKER + "RuntimeError: Cannot find any model weights with `/m`",
                CORE + "Exception: WorkerProc initialization failed due to an exception in a background process.",
                *AFTER,
            ],
            "RuntimeError: Cannot find any model weights with `/m`",
        ),
        (
            [
                "    s.__pydantic_validator__.validate_python(ArgsKwargs(args, kwargs), self_instance=s)",
                "pydantic_core._pydantic_core.ValidationError: 1 validation error for ModelConfig",
                "  Value error, User-specified max_model_len (9) is too large. [type=value_error, input_value=...]",
                "    For further information visit https://errors.pydantic.dev/2.14/v/value_error",
            ],
            "pydantic_core._pydantic_core.ValidationError: 1 validation error for ModelConfig Value error, "
            "User-specified max_model_len (9) is too large.",
        ),
        (
            ["  [model_tag]", "engineArgs: error: argument --dtype: invalid choice: 'nonsense' (choose from 'auto')"],
            "argument --dtype: invalid choice: 'nonsense' (choose from 'auto')",
        ),
        (
            [
                "OSError: You are trying to access a gated repo.",
                "Make sure to have access to it at https://huggingface.co/m.",
                "401 Client Error.",
            ],
            "OSError: You are trying to access a gated repo. Make sure to have access to it at "
            "https://huggingface.co/m. 401 Client Error.",
        ),
        (["loading", AFTER[3].replace("': 1}", "': -9}")], "EngineCore was killed by signal 9; out of memory?"),
        (["INFO 11-25 16:17:09 [core.py:1] all is well", "an Error: in a sentence"], None),
        ([], None),
    ],
)
def test_the_sentence_that_says_why(lines: list[str], expected: str | None) -> None:
    assert cause(lines) == expected


def test_a_sentence_has_an_end() -> None:
    found = cause(["ValueError: " + "x" * 100_000])
    assert found is not None and len(found) == 1000


def raises(error: Raised) -> Raised:
    """The same, with a traceback."""
    try:
        raise error
    except BaseException:
        return error


def of_several_lines() -> BaseException:
    return raises(ValueError("the first\n  and the second"))


def while_another_was_handled() -> BaseException:
    try:
        try:
            raise KeyError("first")
        except KeyError as error:
            raise httpx.ConnectTimeout("timed out") from error
    except httpx.ConnectTimeout as error:
        return error


def in_a_group() -> BaseException:
    return raises(ExceptionGroup("unhandled", [raises(jinja2.TemplateNotFound("chat.jinja"))]))


def in_a_group_of_groups() -> BaseException:
    inner = raises(ExceptionGroup("inner", [raises(KeyError("a")), raises(KeyError("b"))]))
    return raises(ExceptionGroup("outer", [inner, raises(httpx.ConnectTimeout("timed out"))]))


def with_a_note() -> BaseException:
    error = raises(ValueError("too long"))
    error.add_note("while the model was loaded")
    return error


def in_code_that_does_not_parse() -> BaseException:
    try:
        compile("a = (\n", "plugin.py", "exec")
    except SyntaxError as error:
        return error
    raise AssertionError


def in_an_expression_of_several_lines() -> BaseException:
    def united() -> object:
        return (
            int | 1  # type: ignore[operator]
        )

    try:
        return united()  # type: ignore[return-value]
    except TypeError as error:
        return error


TRACEBACKS: list[tuple[BaseException, str]] = [
    (raises(httpx.ConnectTimeout("timed out")), "httpx.ConnectTimeout: timed out"),
    (raises(jinja2.TemplateNotFound("chat.jinja")), "jinja2.exceptions.TemplateNotFound: chat.jinja"),
    (raises(KeyboardInterrupt()), "KeyboardInterrupt"),
    (raises(StopAsyncIteration()), "StopAsyncIteration"),
    (of_several_lines(), "ValueError: the first and the second"),
    (while_another_was_handled(), "httpx.ConnectTimeout: timed out"),
    (in_a_group(), "jinja2.exceptions.TemplateNotFound: chat.jinja"),
    (in_a_group_of_groups(), "httpx.ConnectTimeout: timed out"),
    (with_a_note(), "ValueError: too long while the model was loaded"),
    (in_code_that_does_not_parse(), "SyntaxError: '(' was never closed"),
    (in_an_expression_of_several_lines(), "TypeError: unsupported operand type(s) for |: 'type' and 'int'"),
]


@pytest.mark.parametrize("prefix", ["", CORE], ids=["as Python writes it", "in vLLM's log"])
@pytest.mark.parametrize("error, expected", TRACEBACKS, ids=[type(error).__name__ for error, _ in TRACEBACKS])
def test_the_last_line_of_a_traceback(prefix: str, error: BaseException, expected: str) -> None:
    """As Python writes it, whatever the exception is called."""
    written = "".join(traceback.format_exception(error)).splitlines()
    assert cause(["loading", *(prefix + line for line in written), *AFTER]) == expected


def test_processes_that_write_at_the_same_time() -> None:
    first = [CORE + line for line in "".join(traceback.format_exception(TRACEBACKS[0][0])).splitlines()]
    second = [WORKER + "a weight is loaded" for _ in first]
    mixed = [line for both in zip(first, second, strict=True) for line in both]
    assert cause([*mixed, *AFTER]) == "httpx.ConnectTimeout: timed out"


def test_what_ends_because_another_process_did_is_not_the_cause() -> None:
    interrupted = [WORKER + line for line in "".join(traceback.format_exception(TRACEBACKS[2][0])).splitlines()]
    assert cause([CORE + SEQUENCE, *interrupted, *AFTER]) == SEQUENCE
