"""Which vLLM a worker image may be built on."""

import subprocess
import sys
from typing import Any

import pytest
from images.tools import ROOT, load_script

SCRIPT = ROOT / "worker_image" / "vllm_version.py"
MODULE: Any = load_script(SCRIPT)


@pytest.mark.parametrize("version", ["0.26.0", "0.32.0+cpu", "0.32.1.dev3+gabc", "0.33.0", "0.33.2"])
def test_these_will_do(version: str) -> None:
    assert MODULE.problem(version) == ""


@pytest.mark.parametrize("version", ["0.25.1", "0.34.0", "1.0.0", "0.3.0", "dev"])
def test_these_end_the_build_with_what_to_say(version: str) -> None:
    said = MODULE.problem(version)
    assert version in said and "0.26 to 0.33" in said and "--build-arg VLLM_VERSION" in said


def test_it_finds_this_environments_vllm() -> None:
    done = subprocess.run([sys.executable, str(SCRIPT)], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_without_vllm_it_says_so() -> None:
    done = subprocess.run([sys.executable, "-S", str(SCRIPT)], capture_output=True, text=True, check=False)
    assert done.returncode == 1 and "no vLLM" in done.stderr


def test_the_containerfile_takes_a_version_of_them() -> None:
    lines = (ROOT / "worker_image" / "Containerfile").read_text().splitlines()
    (default,) = (line.partition("=")[2] for line in lines if line.startswith("ARG VLLM_VERSION="))
    assert MODULE.problem(default) == ""
    assert "ARG BASE=docker.io/vllm/vllm-openai:v${VLLM_VERSION}" in lines
    assert "RUN python3 /opt/vernal/build/vllm_version.py" in lines
