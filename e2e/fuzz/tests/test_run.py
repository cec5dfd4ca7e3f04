"""The runner finds what is planted, says how to run it again, and that it does."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
from fuzz.targets import ROOT, TARGETS

PLANTED = """
from fuzz.profile import PROFILE
from hypothesis import given
from hypothesis import strategies as st

@PROFILE
@given(st.integers(0, 100))
def test_that_holds(number):
    assert number >= 0

@PROFILE
@given(st.integers(0, 10**6))
def test_that_does_not(number):
    assert number < 5000, "planted"
"""


def run(path: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """`python -m fuzz` with one target, whose tests are in `path`."""
    code = f"import sys; from fuzz import targets; targets.TARGETS = {{'planted': ({str(path)!r}, 'what')}}\n"
    code += "from fuzz.__main__ import main; sys.exit(main())"
    return subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=False, cwd=ROOT,
        env={"PYTHONPATH": "e2e", "PATH": "/usr/bin:/bin"},
    )  # fmt: skip


def test_what_is_found_is_shown_with_how_to_find_it_again(tmp_path: Path) -> None:
    path = tmp_path / "test_planted.py"
    path.write_text(PLANTED)
    first = run(path, "--rounds", "2", "--seed", "7")
    assert first.returncode == 1, first.stderr
    assert "AssertionError: planted" in first.stdout and "number=5" in first.stdout
    assert re.search(r"planted: \d+ examples in 2 rounds, 1 FAILED", first.stdout)
    again = re.search(r'make fuzz FUZZ="([^"]+)"', first.stdout)
    assert again is not None and "--test test_that_does_not --seed 7 --rounds 1" in again[1]
    second = run(path, *again[1].split())
    assert second.returncode == 1 and "AssertionError: planted" in second.stdout


def test_what_holds_ends_with_the_number_of_its_examples(tmp_path: Path) -> None:
    path = tmp_path / "test_planted.py"
    path.write_text(PLANTED)
    done = run(path, "--rounds", "3", "--test", "test_that_holds")
    assert done.returncode == 0 and re.search(r"planted: \d+ examples in 3 rounds, nothing found", done.stdout)


def test_a_name_that_is_no_test_is_said(tmp_path: Path) -> None:
    path = tmp_path / "test_planted.py"
    path.write_text(PLANTED)
    done = run(path, "--test", "test_typo")
    assert done.returncode != 0 and "no test that is called test_typo" in done.stderr


@pytest.mark.parametrize("target", TARGETS)
def test_each_target_has_its_tests(target: str) -> None:
    text = (ROOT / TARGETS[target][0]).read_text()
    assert "@PROFILE\n@given(" in text and "def test_" in text


def test_each_file_of_fuzz_tests_is_a_target() -> None:
    there = {str(path.relative_to(ROOT)) for path in ROOT.glob("*/tests/**/test_fuzz_*.py")}
    assert there == {path for path, _ in TARGETS.values()}
