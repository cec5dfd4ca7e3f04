"""The pins fit together, and a build is found again exactly while nothing that makes it changed."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from cluster import build

GO_MOD = (build.SOURCES / "go.mod").read_text()


def test_every_staging_module_is_replaced_by_the_version_of_the_release() -> None:
    minor, patch = build.kubernetes_version(GO_MOD).removeprefix("v1.").split(".")
    replaced = dict(re.findall(r"^\s*(k8s\.io/\S+) => k8s\.io/\S+ (\S+)$", GO_MOD, re.MULTILINE))
    assert set(replaced.values()) == {f"v0.{minor}.{patch}"}
    assert {"k8s.io/api", "k8s.io/apiserver", "k8s.io/kubectl", "k8s.io/kubelet"} <= replaced.keys()


def test_the_wheel_is_new_enough_for_go_mod() -> None:
    assert build.new_enough("go" + build.GO_WHEEL.partition("==")[2], build.minimum_go(GO_MOD))


@pytest.mark.parametrize(
    ("version", "enough"),
    [("go1.24.0", True), ("go1.24", False), ("go1.26.8", True), ("go1.19.8", False), ("go1.25rc1", True),
     ("devel", False), ("", False), (None, False)],
)  # fmt: skip
def test_new_enough(version: str | None, enough: bool) -> None:
    assert build.new_enough(version, (1, 24, 0)) is enough


def test_the_digest_follows_contents_names_and_toolchain(tmp_path: Path) -> None:
    (tmp_path / "main.go").write_text("package main")
    first = build.digest(tmp_path, "go1.26.8")
    assert build.digest(tmp_path, "go1.26.8") == first
    assert build.digest(tmp_path, "go1.26.9") != first
    (tmp_path / "main.go").rename(tmp_path / "other.go")
    renamed = build.digest(tmp_path, "go1.26.8")
    (tmp_path / "other.go").write_text("package other")
    assert len({first, renamed, build.digest(tmp_path, "go1.26.8")}) == 3
