"""No test is forgotten: each is where pytest looks, and some target of the Makefile asks for its kind there."""

import re
import shlex
import tomllib
from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parents[2]
MAKEFILE = (ROOT / "Makefile").read_text()
SETTINGS = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["pytest"]["ini_options"]
REFINE = {"every_release", "two_gpus", "four_gpus"}
"""Marks of tests that have another one, which says where they run."""

KINDS = {text.partition(":")[0] for text in SETTINGS["markers"]} - REFINE
FILES = sorted(
    path.relative_to(ROOT)
    for path in ROOT.rglob("test_*.py")
    if not any(part.startswith(".") for part in path.relative_to(ROOT).parts)
)


class Asked(NamedTuple):
    """A target's call of pytest: tests with one of these marks, below these paths. Of those without a mark the kind
    is ""."""

    kinds: frozenset[str]
    paths: tuple[Path, ...]
    ignored: tuple[Path, ...]

    def covers(self, kind: str, file: Path) -> bool:
        below = any(file.is_relative_to(path) for path in self.paths)
        return kind in self.kinds and below and not any(file.is_relative_to(path) for path in self.ignored)


def asked(makefile: str) -> Iterator[Asked]:
    for text in re.findall(r"^\t.*pytest (.*)$", makefile, re.MULTILINE):
        words = shlex.split(text.partition("|")[0])
        if "--collect-only" in words or "-k" in words:
            continue  # it runs none, or only some
        expression = words[words.index("-m") + 1] if "-m" in words else " ".join(KINDS)
        kinds = set(re.findall(r"(?<!not )\b(\w+)\b", expression)) & KINDS
        given = [word for word in words if word != expression and not word.startswith("-")]
        paths = [Path(word) for word in given] or [Path()]
        assert all((ROOT / path).exists() for path in paths), f"not there: {text}"
        ignored = [Path(word.partition("=")[2]) for word in words if word.startswith("--ignore=")]
        yield Asked(frozenset(kinds or {""}), tuple(paths), tuple(ignored))


def kinds_in(file: Path) -> set[str]:
    """As the file says, or a conftest.py beside it of all tests there; and it may have some without a mark."""
    beside = ROOT / file.parent / "conftest.py"
    text = (ROOT / file).read_text()
    of_all = re.findall(r"add_marker\(pytest\.mark\.(\w+)\)", beside.read_text()) if beside.exists() else []
    return {*re.findall(r"pytest\.mark\.(\w+)", text), *of_all} & KINDS | {""}


@pytest.mark.parametrize("file", FILES, ids=str)
def test_pytest_looks_where_it_is(file: Path) -> None:
    passed_over = [part for part in file.parts for pattern in SETTINGS["norecursedirs"] if fnmatch(part, pattern)]
    assert not passed_over


def test_a_target_asks_for_each_kind_of_test_where_there_is_one() -> None:
    targets = list(asked(MAKEFILE))
    forgotten = {
        (str(file), kind)
        for file in FILES
        for kind in kinds_in(file)
        if not any(target.covers(kind, file) for target in targets)
    }
    assert not forgotten


def test_what_a_target_asks_for_is_read_from_the_makefile() -> None:
    text = '\t$(BIN)/pytest -q -m "s3 and not alone" e2e/cluster operator --ignore=operator/tests/plan\n'
    (found,) = asked(text)
    assert found == Asked(frozenset({"s3"}), (Path("e2e/cluster"), Path("operator")), (Path("operator/tests/plan"),))
    assert found.covers("s3", Path("operator/tests/test_x.py"))
    assert not found.covers("s3", Path("operator/tests/plan/test_x.py"))
    assert not found.covers("alone", Path("operator/tests/test_x.py"))
    (found,) = asked('\tpytest -q -m "not s3 and not gpu"\n\tpytest --collect-only -m gpu\n\tpytest -m s3 -k azure\n')
    assert found == Asked(frozenset({""}), (Path(),), ())
    assert found.covers("", Path("operator/tests/test_x.py"))
