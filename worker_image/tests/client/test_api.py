"""CheckpointableAsyncLLM has everything that AsyncLLM has."""

import ast
import copy
import json
from pathlib import Path

import pytest
from public_api import NOT_THERE, Api, assigned, installed, lacks, public

HERE = Path(__file__).parent
CLIENT = HERE.parents[1] / "vernal_worker/client"


def ours() -> Api:
    return (
        public(CLIENT / "calls.py", "Calls")
        | public(CLIENT / "known.py", "Known")
        | public(CLIENT / "requests.py", "Requests")
        | public(CLIENT / "ways.py", "Ways")
        | public(CLIENT / "async_llm.py", "CheckpointableAsyncLLM")
    )


def of_version(version: str) -> Api:
    if version == "0.26":
        recorded: Api = json.loads((HERE / "async_llm_0.26.json").read_text())
        return recorded
    return public(installed("v1/engine/async_llm.py"), "AsyncLLM")


@pytest.mark.parametrize("version", ["0.26", "installed"])
def test_nothing_of_async_llm_is_missing(version: str) -> None:
    theirs = of_version(version)
    assert len(theirs) > 35 and {"generate", "encode", "abort", "errored", "collective_rpc"} <= theirs.keys()
    assert lacks(theirs, ours()) == []


def test_attributes_of_the_engine_protocol() -> None:
    tree = ast.parse(installed("engine/protocol.py").read_text())
    (protocol,) = [node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == "EngineClient"]
    names = {node.target.id for node in protocol.body if isinstance(node, ast.AnnAssign)}  # type: ignore[union-attr]
    assert "model_config" in names
    assert names <= ours().keys()


def test_attributes_that_async_llm_sets() -> None:
    ours_set = assigned(CLIENT / "async_llm.py", "CheckpointableAsyncLLM")
    theirs = assigned(installed("v1/engine/async_llm.py"), "AsyncLLM")
    assert {"vllm_config", "scheduler_config", "observability_config", "log_stats", "renderer"} <= theirs
    assert theirs - NOT_THERE == theirs & (ours().keys() | ours_set)


def test_what_vllm_adds_would_be_noticed() -> None:
    theirs = of_version("installed")
    changed = copy.deepcopy(theirs)
    changed["brand_new"] = {"kind": "async", "positional": [], "keywords": [], "open": False}
    changed["generate"]["keywords"].append("new_keyword")
    changed["sleep"]["defaults"]["level"] = "2"
    changed["abort"]["positional"].insert(0, "new_first")
    changed["is_running"] = {"kind": "sync", "positional": [], "keywords": [], "open": False}
    found = lacks(changed, ours())
    assert {line.partition(":")[0] for line in found} == {
        "abort",
        "brand_new",
        "generate",
        "is_running",
        "sleep",
    }
    takes_anything = copy.deepcopy(ours())
    takes_anything["pin_lora"]["open"] = True
    assert lacks(theirs, takes_anything) == ["pin_lora: takes anything, whatever it is"]


def test_every_call_by_name_is_one_that_the_engine_takes() -> None:
    """The closed set on the wire and the methods that send calls agree."""
    tree = ast.parse((HERE.parents[1] / "vernal_worker/engine/wire.py").read_text())
    (methods,) = [
        node.value.args[0]  # type: ignore[attr-defined]
        for node in tree.body
        if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "METHODS"
    ]
    assert set(ast.literal_eval(methods)) == public(CLIENT / "calls.py", "Calls").keys() - {"call"}
