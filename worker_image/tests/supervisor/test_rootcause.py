"""From what vLLM 0.32 wrote when it did not start."""

import pytest
from vernal_worker.supervisor.rootcause import cause

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
