"""CheckpointableAsyncLLM does what AsyncLLM does, method by method, and vLLM's OpenAI server over it what it does over
AsyncLLM."""

import json

import pytest
from programs import Frozen
from public_api import NOT_THERE, assigned, installed, public
from reports import Report, different, reported

ELSEWHERE = {"from_engine_args", "from_vllm_config", "shutdown", "handle_fault", *NOT_THERE}
"""Of AsyncLLM's interface, what each of these tests uses anyway, what AsyncLLM never answers where fault tolerance is
off, and what is not there."""


@pytest.fixture(scope="module")
def report(frozen: Frozen) -> Report:
    """What came of each case, by engine."""
    return reported("beside.py", str(frozen.directory), str(frozen.model))


def test_everything_is_compared(report: Report) -> None:
    path = installed("v1/engine/async_llm.py")
    theirs = {*public(path, "AsyncLLM"), *assigned(path, "AsyncLLM")} - ELSEWHERE
    used = {name.removeprefix("call: ").partition(",")[0] for name in report["ours"] if name.startswith("call: ")}
    assert len(theirs) > 50 and used == theirs


def test_methods_and_attributes(report: Report) -> None:
    assert different(report, "call: ") == {}
    assert different(report, "attributes") == {}


def test_vllms_openai_server(report: Report) -> None:
    assert different(report, "server: ") == {}
    ours = {name.removeprefix("server: "): value for name, value in report["ours"].items()}
    for name in ("tool, named", "tool, required"):
        _, calls, _, _ = ours[name]["returned"]
        assert [function for function, _ in calls] == ["weather"]
    assert json.loads(ours["JSON schema"]["returned"][0]).keys() == {"city", "warm"}
    assert ours["completion, streamed"]["returned"][0] == ours["completion"]["returned"][0][0][1]
    assert ours["unknown model"]["raised"][0] == "NotFoundError"
    assert ours["tokens counted"] == [True] and "vllm:e2e_request_latency_seconds_bucket" in ours["metrics"]
