"""The pins fit together, and a build is found again exactly while nothing that makes it changed."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from cluster import build

RELEASES = (build.NEWEST, build.OLDEST)
CHART = Path(__file__).parents[3] / "charts" / "vernal" / "Chart.yaml"


def minor(release: build.Release) -> int:
    return int(release.version.split(".")[1])


@pytest.mark.parametrize("release", RELEASES, ids=str)
def test_every_staging_module_is_replaced_by_the_version_of_the_release(release: build.Release) -> None:
    minor, patch = release.version.removeprefix("v1.").split(".")
    replaced = dict(re.findall(r"^\s*(k8s\.io/\S+) => k8s\.io/\S+ (\S+)$", release.go_mod, re.MULTILINE))
    assert set(replaced.values()) == {f"v0.{minor}.{patch}"}
    assert {"k8s.io/api", "k8s.io/apiserver", "k8s.io/kubectl", "k8s.io/kubelet"} <= replaced.keys()


@pytest.mark.parametrize("release", RELEASES, ids=str)
def test_the_wheel_is_new_enough(release: build.Release) -> None:
    assert build.new_enough("go" + build.GO_WHEEL.partition("==")[2], build.minimum_go(release.go_mod))


def test_one_toolchain_compiles_both() -> None:
    assert build.minimum_go(build.NEWEST.go_mod) >= build.minimum_go(build.OLDEST.go_mod)


def test_the_oldest_release_is_the_oldest_that_the_chart_takes() -> None:
    (stated,) = re.findall(r'^kubeVersion: ">=1\.(\d+)\.0-0"$', CHART.read_text(), re.MULTILINE)
    assert int(stated) == minor(build.OLDEST) < minor(build.NEWEST)


@pytest.mark.parametrize(
    ("version", "enough"),
    [("go1.24.0", True), ("go1.24", False), ("go1.26.8", True), ("go1.19.8", False), ("go1.25rc1", True),
     ("devel", False), ("", False), (None, False)],
)  # fmt: skip
def test_new_enough(version: str | None, enough: bool) -> None:
    assert build.new_enough(version, (1, 24, 0)) is enough


def test_the_digest_follows_contents_names_and_toolchain(tmp_path: Path) -> None:
    (tmp_path / "main.go").write_text("package main")
    first = build.digest(tmp_path, build.NEWEST, "go1.26.8")
    assert build.digest(tmp_path, build.NEWEST, "go1.26.8") == first
    assert build.digest(tmp_path, build.NEWEST, "go1.26.9") != first
    (tmp_path / "main.go").rename(tmp_path / "other.go")
    renamed = build.digest(tmp_path, build.NEWEST, "go1.26.8")
    (tmp_path / "other.go").write_text("package other")
    assert len({first, renamed, build.digest(tmp_path, build.NEWEST, "go1.26.8")}) == 3


@pytest.mark.parametrize("suffix", ["mod", "sum"])
def test_the_digest_follows_the_pins_of_its_own_release_alone(tmp_path: Path, suffix: str) -> None:
    before = [build.digest(tmp_path, release, "go1.26.8") for release in RELEASES]
    (tmp_path / f"oldest.{suffix}").write_text("other pins")
    after = [build.digest(tmp_path, release, "go1.26.8") for release in RELEASES]
    assert [one == other for one, other in zip(before, after, strict=True)] == [True, False]
