"""Images are known by their content, and a change of code leaves their large layers as they are."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from images import base
from images.build import KINDS, build, planned
from images.storage import layers
from images.tools import ROOT

COPIED = ("constraints", "contract", "operator", "worker_image", "e2e/common", "e2e/images", ".containerignore")


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A copy of what images are made from."""
    for name in COPIED:
        source, target = ROOT / name, tmp_path / name
        if source.is_dir():
            shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, target)
    return tmp_path


def run(checkout: Path, *arguments: str) -> str:
    command = [sys.executable, str(checkout / "e2e/images/build.py"), *arguments]
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.strip()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("change", ["code", "contract", "constraints", "Containerfile"])
def test_the_name_changes_with_the_content(checkout: Path, kind: str, change: str) -> None:
    paths = {
        "code": KINDS[kind].packages[1] + "/__init__.py",
        "contract": KINDS[kind].packages[0] + "/names.py",
        "constraints": f"constraints/{kind}.txt",
        "Containerfile": KINDS[kind].containerfile,
    }
    before = run(checkout, kind, "--print-ref")
    assert before == planned(KINDS[kind]).reference
    with (checkout / paths[change]).open("a") as file:
        file.write("# changed\n")
    assert run(checkout, kind, "--print-ref") != before


def test_the_name_does_not_change_with_what_is_not_in_the_image(checkout: Path) -> None:
    before = run(checkout, "operator", "--print-ref")
    (checkout / "worker_image/vernal_worker/new.py").write_text("")
    (checkout / "operator/vernal_operator/__pycache__").mkdir(exist_ok=True)
    (checkout / "operator/vernal_operator/__pycache__/main.cpython-311.pyc").write_bytes(b"bytecode")
    assert run(checkout, "operator", "--print-ref") == before


def test_the_base_is_known_by_how_it_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    before = base.key()
    monkeypatch.setattr(base, "MMDEBSTRAP", [*base.MMDEBSTRAP, "--include=vim"])
    assert base.key() != before


@pytest.mark.scenario
@pytest.mark.timeout(10800)  # where nothing is in the cache yet
def test_a_change_of_code_makes_small_layers(checkout: Path) -> None:
    first = layers(build(KINDS["operator"]).layout)
    with (checkout / "operator/vernal_operator/__init__.py").open("a") as file:
        file.write("# changed\n")
    layout = Path(run(checkout, "operator"))
    try:
        second = layers(layout)
    finally:
        shutil.rmtree(layout)
    new = [size for digest, size in second if digest not in dict(first)]
    assert new, "the changed file is in a layer"
    assert sum(new) < 5_000_000 < sum(size for _, size in second)
    assert first[:4] == second[:4], "Debian, Python and the environment stay"
