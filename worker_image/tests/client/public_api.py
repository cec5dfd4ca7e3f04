"""The public methods and properties of a class, read from its source without importing it.

`python public_api.py PATH/TO/async_llm.py AsyncLLM` prints them as JSON. `async_llm_0.26.json` was made so from the
wheel of vLLM 0.26.0: `pip download vllm==0.26.0 --no-deps`, then `unzip vllm-*.whl vllm/v1/engine/async_llm.py`.
"""

import ast
import importlib.util
import json
import sys
from pathlib import Path
from typing import Any

Api = dict[str, dict[str, Any]]
FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
NOT_THERE = {"admission_stats", "engine_core", "logger_manager", "output_handler", "output_processor", "profiler"}
"""Attributes of AsyncLLM that are the engine's side, which is in another process."""


def installed(module: str) -> Path:
    """A file of vLLM's sources. vLLM is not imported."""
    spec = importlib.util.find_spec("vllm")
    assert spec is not None and spec.origin is not None, "vllm is not installed"
    return Path(spec.origin).parent / module


def public(path: Path, name: str) -> Api:
    """By name: `kind` (property, async, stream, sync), `positional` and `keywords` (parameter names), `open` (takes
    any), `defaults` (as in the source, by parameter). Annotated attributes count as properties."""
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.ClassDef) and node.name == name:
            annotated = [item.target for item in node.body if isinstance(item, ast.AnnAssign)]
            names = [target.id for target in annotated if isinstance(target, ast.Name)]
            found: Api = {name: {"kind": "property"} for name in names if not name.startswith("_")}
            return found | _public([item for item in node.body if isinstance(item, FUNCTIONS)])
    raise LookupError(f"no class {name} in {path}")


def assigned(path: Path, name: str) -> set[str]:
    """The public attributes that the class's `__init__` sets."""
    (cls,) = [node for node in ast.parse(path.read_text()).body if isinstance(node, ast.ClassDef) and node.name == name]
    (init,) = [item for item in cls.body if isinstance(item, FUNCTIONS) and item.name == "__init__"]
    targets = [target for node in ast.walk(init) for target in _targets(node)]
    own = [t.attr for t in targets if isinstance(t, ast.Attribute) and getattr(t.value, "id", "") == "self"]
    return {name for name in own if not name.startswith("_")}


def _targets(node: ast.AST) -> list[ast.expr]:
    if isinstance(node, ast.Assign):
        return node.targets
    return [node.target] if isinstance(node, ast.AnnAssign) else []


def _public(methods: list[ast.FunctionDef | ast.AsyncFunctionDef]) -> Api:
    return {item.name: _describe(item) for item in methods if not item.name.startswith("_")}


def _describe(item: ast.FunctionDef | ast.AsyncFunctionDef) -> dict[str, Any]:
    decorators = {getattr(decorator, "id", "") for decorator in item.decorator_list}
    if decorators & {"property", "cached_property"}:
        return {"kind": "property"}
    arguments = item.args
    return {
        "kind": _kind(item),
        "positional": [a.arg for a in [*arguments.posonlyargs, *arguments.args] if a.arg not in ("self", "cls")],
        "keywords": [a.arg for a in arguments.kwonlyargs],
        "open": arguments.kwarg is not None or arguments.vararg is not None,
        "defaults": _defaults(arguments),
    }


def _defaults(arguments: ast.arguments) -> dict[str, str]:
    positional = [*arguments.posonlyargs, *arguments.args]
    having = positional[len(positional) - len(arguments.defaults) :]
    pairs = [
        *zip(having, arguments.defaults, strict=True),
        *zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True),
    ]
    return {parameter.arg: ast.unparse(value) for parameter, value in pairs if value is not None}


def _kind(item: ast.FunctionDef | ast.AsyncFunctionDef) -> str:
    """An asynchronous generator is called alike, whether it is a generator function or returns one."""
    returns = ast.unparse(item.returns) if item.returns is not None else ""
    if returns.startswith("AsyncGenerator"):
        return "stream"
    return "async" if isinstance(item, ast.AsyncFunctionDef) else "sync"


def lacks(theirs: Api, ours: Api) -> list[str]:
    """What a program that uses `theirs` would miss in `ours`."""
    return [f"{name}: {problem}" for name in sorted(theirs) for problem in _problems(theirs[name], ours.get(name))]


def _problems(theirs: dict[str, Any], ours: dict[str, Any] | None) -> list[str]:
    if ours is None:
        return ["is not there"]
    if theirs["kind"] != ours["kind"]:
        return [f"is {ours['kind']} instead of {theirs['kind']}"]
    if theirs["kind"] == "property":
        return []
    problems = ["takes anything, whatever it is"] if ours["open"] and not theirs["open"] else []
    defaults = theirs.get("defaults", {})  # not recorded of 0.26
    for name, value in defaults.items():
        if (mine := ours["defaults"].get(name)) != value:
            problems.append(f"{name} is {mine} by default instead of {value}")
    if any(mine != its for mine, its in zip(ours["positional"], theirs["positional"], strict=False)):
        problems.append(f"takes {ours['positional']} instead of {theirs['positional']}")
    missing = {*theirs["positional"], *theirs["keywords"]} - {*ours["positional"], *ours["keywords"]}
    return problems + [f"does not take {name}" for name in sorted(missing)]


if __name__ == "__main__":
    print(json.dumps(public(Path(sys.argv[1]), sys.argv[2]), indent=1, sort_keys=True))
