"""What the store asks of a file system: each thing that is missing is named."""

import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from vernal_worker.store import demands, fs


def failed(root: Path) -> dict[str, str]:
    return {check.name: f"{check.detail} {check.remedy}" for check in demands.checks(root) if not check.ok}


def test_a_local_file_system_has_it_all_and_is_left_as_it_was(tmp_path: Path) -> None:
    assert failed(tmp_path) == {}
    assert list(tmp_path.iterdir()) == []
    assert fs.mount(tmp_path)[0]


def refuse(code: int) -> Callable[..., Any]:
    def call(*_: object, **__: object) -> None:
        raise OSError(code, os.strerror(code))

    return call


@pytest.mark.parametrize(
    ("call", "code", "name", "words"),
    [
        ("link", errno.EPERM, "hard links", "SMB"),
        ("rename", errno.ENOSYS, "rename", "NFSv4"),
        ("fsync", errno.EINVAL, "fsync", "stable storage"),
    ],
)
def test_what_is_missing_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str, code: int, name: str, words: str
) -> None:
    monkeypatch.setattr(os, call, refuse(code))
    found = failed(tmp_path)
    assert words in found[name]
    assert call == "fsync" or set(found) == {name}
    monkeypatch.undo()
    assert list(tmp_path.iterdir()) == []


def test_a_mount_that_remembers_for_too_long() -> None:
    for options, ok in (
        ({}, True),
        ({"acdirmax": "60"}, True),
        ({"acregmax": "3", "acdirmax": "300"}, False),
        ({"actimeo": "600"}, False),
    ):
        check = demands.attributes("nfs4", options)
        assert check.ok is ok, options
        assert "actimeo=60" in check.remedy
    assert demands.attributes("ext4", {}).ok


@pytest.fixture
def read_only(tmpfs: Callable[[str], Path]) -> Path:
    return tmpfs("ro")


@pytest.mark.integration
def test_read_only(read_only: Path) -> None:
    assert "Read-only" in failed(read_only)["directory"]
