"""The workflow files of GitHub Actions, as far as they can be checked without GitHub."""

import re
import subprocess
from typing import Any

import pytest
import yaml
from checkers.tests.conftest import ROOT
from images.tools import load_script

WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yaml"))


@pytest.mark.chart
def test_actionlint_accepts_them(programs: dict[str, str]) -> None:
    # Without shellcheck and pyflakes, which machines have or have not.
    command = [programs["actionlint"], "-shellcheck=", "-pyflakes=", *map(str, WORKFLOWS)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


def test_they_call_what_there_is() -> None:
    targets = set(re.findall(r"^([a-z0-9-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    called = {
        word for path in WORKFLOWS for line in re.findall(r"run: make (.*)", path.read_text()) for word in line.split()
    }
    assert {"lint", "unit", "chart-tests"} <= called <= targets


def test_images_are_of_files_and_versions_that_there_are() -> None:
    problem: Any = load_script(ROOT / "worker_image" / "vllm_version.py").problem
    jobs = yaml.safe_load((ROOT / ".github" / "workflows" / "release.yaml").read_text())["jobs"]
    images = jobs["images"]["strategy"]["matrix"]["include"]
    assert {image["file"] for image in images} == {
        f"{folder}/Containerfile{kind}"
        for folder, kind in (("operator", ""), ("worker_image", ""), ("worker_image", ".cpu"))
    }
    for image in images:
        assert (ROOT / image["file"]).exists()
        if version := image["arguments"].removeprefix("VLLM_VERSION="):
            assert problem(version) == "" and image["suffix"] == f"-vllm{version}"


def test_the_chart_is_packed_by_the_helm_that_it_is_tested_with() -> None:
    steps = yaml.safe_load((ROOT / ".github" / "workflows" / "release.yaml").read_text())["jobs"]["chart"]["steps"]
    (told,) = [step["with"]["version"] for step in steps if "setup-helm" in step.get("uses", "")]
    assert f"helm.sh/helm/v3 {told}" in (ROOT / "e2e" / "cluster" / "go" / "go.mod").read_text()


def test_nobody_gets_more_rights_than_needed() -> None:
    for path in WORKFLOWS:
        assert yaml.safe_load(path.read_text())["permissions"] in ({}, {"contents": "read"})
