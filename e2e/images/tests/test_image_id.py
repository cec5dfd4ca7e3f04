"""The identity of an image's content: the same for the same content, another for any other."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from images.tools import ROOT, load_script

MODULE: Any = load_script(ROOT / "worker_image" / "image_id.py")

STATUS = """Package: libc6
Status: install ok installed
Architecture: amd64
Version: 2.36-9

Package: gone
Status: deinstall ok config-files
Architecture: amd64
Version: 1
"""


@pytest.fixture
def image(tmp_path: Path) -> Path:
    """A directory laid out like what an image's identity covers."""
    (tmp_path / "app" / "vernal_worker").mkdir(parents=True)
    (tmp_path / "app" / "vernal_worker" / "cli.py").write_text("print(1)\n")
    (tmp_path / "criu").write_bytes(b"\x7fELF")
    (tmp_path / "status").write_text(STATUS)
    info = tmp_path / "site" / "torch-2.13.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: torch\nVersion: 2.13.0\n")
    (info / "RECORD").write_text("torch/__init__.py,sha256=abc,10\n")
    return tmp_path


def identity(image: Path) -> str:
    site = [str(image / "site")]
    value: str = MODULE.image_id([image / "app", image / "criu"], image / "status", site)
    return value


def test_same_content_same_identity(image: Path) -> None:
    assert identity(image) == identity(image)
    assert len(identity(image)) == 64


def _edit(name: str, text: str) -> Callable[[Path], object]:
    return lambda image: (image / name).write_text(text)


@pytest.mark.parametrize(
    "change",
    [
        _edit("app/vernal_worker/cli.py", "print(2)\n"),
        _edit("app/vernal_worker/new.py", ""),
        _edit("criu", "another"),
        _edit("status", STATUS.replace("2.36-9", "2.36-10")),
        _edit("site/torch-2.13.0.dist-info/RECORD", "torch/__init__.py,sha256=abd,10\n"),
        lambda image: (image / "app/vernal_worker/cli.py").rename(image / "app/vernal_worker/main.py"),
    ],
    ids=["code", "new file", "criu", "C library", "distribution", "renamed"],
)
def test_another_content_another_identity(image: Path, change: Callable[[Path], object]) -> None:
    before = identity(image)
    change(image)
    assert identity(image) != before


@pytest.mark.parametrize(
    "change",
    [
        lambda image: (image / "app/vernal_worker/cli.cpython-311.pyc").write_bytes(b"bytecode"),
        _edit("site/torch-2.13.0.dist-info/RECORD", "torch/x.cpython-311.pyc,,\ntorch/__init__.py,sha256=abc,10\n"),
        _edit("status", STATUS.replace("Version: 1\n", "Version: 2\n")),
    ],
    ids=["bytecode", "recorded bytecode", "removed package"],
)
def test_what_does_not_count(image: Path, change: Callable[[Path], object]) -> None:
    before = identity(image)
    change(image)
    assert identity(image) == before


def test_a_missing_file_is_an_error(image: Path) -> None:
    with pytest.raises(FileNotFoundError, match="nowhere"):
        MODULE.image_id([image / "nowhere"], image / "status", [])
