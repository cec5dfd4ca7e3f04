"""The programs that check, and the chart's manifests for each example of values."""

import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import checkers
import pytest
import yaml
from cluster import build

ROOT = Path(__file__).parents[3]
CHART = ROOT / "charts" / "vernal"
EXAMPLES = sorted((CHART / "ci").glob("*-values.yaml"))

Rendered = Callable[[Path], list[dict[str, Any]]]


@pytest.fixture(scope="session")
def programs() -> dict[str, str]:
    return checkers.ensure() | {"helm": build.ensure()["helm"]}


@pytest.fixture(scope="session")
def rendered(programs: dict[str, str]) -> Rendered:
    def run(values: Path) -> list[dict[str, Any]]:
        command = [
            programs["helm"],
            "template",
            "vernal",
            str(CHART),
            "--namespace=vernal-system",
            f"--values={values}",
        ]
        command += [
            f"--kube-version={build.OLDEST}",
            "--api-versions=admissionregistration.k8s.io/v1/ValidatingAdmissionPolicy",
        ]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        return [document for document in yaml.safe_load_all(done.stdout) if document]

    return run
