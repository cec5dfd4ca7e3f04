"""What of vLLM Vernal's worker imports, and whether another version has it, with the same parameters: read, not run."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

Node = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef


@dataclass(frozen=True, order=True)
class Import:
    """`from module import name`; without a name, `import module`."""

    module: str
    name: str
    where: str
    """The file and line that has it."""

    def __str__(self) -> str:
        return f"{self.module}.{self.name}" if self.name else self.module


Options = tuple[tuple[Import, ...], ...]
"""Ways to get what is needed: all imports of one of them."""


def imports(sources: Mapping[str, str]) -> list[Options]:
    """Everything of vLLM that these files import, by file name and text. What a `try` imports is one way, and what its
    handlers import are others; where a handler imports nothing, the code can do without."""
    found: set[Options] = set()
    for file, text in sources.items():
        found |= set(_wanted(ast.parse(text), file))
    return sorted(found)


def _wanted(tree: ast.AST, file: str) -> Iterator[Options]:
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.ImportFrom) and node.module and _is_vllm(node.module):
            for alias in node.names:
                yield ((Import(node.module, alias.name, f"{file}:{node.lineno}"),),)
        elif isinstance(node, ast.Import):
            for alias in node.names:
                if _is_vllm(alias.name):
                    yield ((Import(alias.name, "", f"{file}:{node.lineno}"),),)
        elif isinstance(node, ast.Try) and any(_expects_no_module(handler) for handler in node.handlers):
            ways = [_flat(node.body, file), *(_flat(handler.body, file) for handler in node.handlers)]
            if all(ways):
                yield tuple(option for way in ways for option in way)
        else:
            yield from _wanted(node, file)


def _flat(body: list[ast.stmt], file: str) -> Options:
    """The ways to run these statements."""
    found = list(_wanted(ast.Module(body, []), file))
    plain = tuple(each[0][0] for each in found if len(each) == 1)
    choices = [each for each in found if len(each) > 1]
    if not choices:
        return (plain,) if plain else ()
    return tuple((*plain, *option) for choice in choices for option in choice)


def _expects_no_module(handler: ast.ExceptHandler) -> bool:
    return handler.type is not None and any(
        isinstance(each, ast.Name) and each.id in ("ImportError", "ModuleNotFoundError")
        for each in ast.walk(handler.type)
    )


def _is_vllm(module: str) -> bool:
    return module == "vllm" or module.startswith("vllm.")


class Package:
    """The modules of vLLM, of one version."""

    def __init__(self, files: Mapping[str, str]) -> None:
        """`files`: texts by path, such as "vllm/v1/engine/core.py"."""
        self._files = files
        self._names: dict[str, dict[str, ast.AST]] = {}

    @classmethod
    def of_directory(cls, directory: Path) -> Package:
        files = sorted((directory / "vllm").rglob("*.py"))
        return cls({path.relative_to(directory).as_posix(): path.read_text() for path in files})

    def lacks(self, wanted: Import) -> str:
        """Why it cannot be imported; empty if it can."""
        file = self._file(wanted.module)
        if file is None:
            return f"there is no module {wanted.module}"
        if not wanted.name or wanted.name == "*" or self._file(f"{wanted.module}.{wanted.name}"):
            return ""
        names = self._defined(file)
        # Such as vllm/__init__.py, which gets its names when they are asked for.
        if wanted.name in names or ("__getattr__" in names and f'"{wanted.name}"' in self._files[file]):
            return ""
        return f"{wanted.module} has no {wanted.name}"

    def parameters(self, wanted: Import) -> Parameters | None:
        """Of a function, or of a class's `__init__` or fields; None where that is not told by this module alone."""
        file = self._file(wanted.module)
        node = self._defined(file).get(wanted.name) if file else None
        if isinstance(node, ast.ClassDef):
            made = [each for each in node.body if isinstance(each, ast.FunctionDef) and each.name == "__init__"]
            return Parameters.of(made[0], skip=1) if made else None
        return Parameters.of(node) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) else None

    def _file(self, module: str) -> str | None:
        path = module.replace(".", "/")
        return next((name for name in (f"{path}.py", f"{path}/__init__.py") if name in self._files), None)

    def _defined(self, file: str) -> dict[str, ast.AST]:
        if file not in self._names:
            self._names[file] = dict(_definitions(ast.parse(self._files[file])))
        return self._names[file]


@dataclass(frozen=True)
class Parameters:
    names: tuple[str, ...]
    required: frozenset[str]
    open: bool
    """Whether it takes any keyword."""

    @classmethod
    def of(cls, node: ast.FunctionDef | ast.AsyncFunctionDef, skip: int = 0) -> Parameters:
        given = node.args
        positional = [each.arg for each in [*given.posonlyargs, *given.args]]
        needed = positional[: len(positional) - len(given.defaults)]
        pairs = zip(given.kwonlyargs, given.kw_defaults, strict=True)
        keywords = [each.arg for each in given.kwonlyargs]
        needed += [each.arg for each, default in pairs if default is None]
        first = set(positional[:skip])
        names = tuple(name for name in positional + keywords if name not in first)
        return cls(names, frozenset(needed) - first, given.kwarg is not None)

    def change(self, newer: Parameters) -> str:
        """What calls that were right may trip over; empty if nothing."""
        gone = [] if newer.open else [name for name in self.names if name not in newer.names]
        new = sorted(newer.required - set(self.names))
        parts = [f"no longer takes {', '.join(gone)}"] if gone else []
        return "; ".join(parts + ([f"now needs {', '.join(new)}"] if new else []))


def _definitions(tree: ast.AST) -> Iterator[tuple[str, ast.AST]]:
    """Names at the top of a module, also within `if` and `try`."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield node.name, node
        elif isinstance(node, ast.Import | ast.ImportFrom):
            for alias in node.names:
                yield alias.asname or alias.name.partition(".")[0], node
        elif isinstance(node, ast.Assign):
            for target in node.targets:
                for name in ast.walk(target):
                    if isinstance(name, ast.Name):
                        yield name.id, node
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            yield node.target.id, node
        elif isinstance(node, ast.If | ast.Try | ast.With | ast.ExceptHandler):
            yield from _definitions(node)
