"""The chart's own PodMonitors become a configuration that Prometheus takes."""

import subprocess
from pathlib import Path

import checkers
import pytest
import yaml
from autoscalers.monitoring import SCRAPE, configuration
from cluster import build
from scenarios.setup import ROOT

pytestmark = pytest.mark.chart


def test_prometheus_takes_what_is_made_of_the_charts_pod_monitors(tmp_path: Path) -> None:
    values = [f"--set={value}" for value in (*SCRAPE, "waker.enabled=true", "image.repository=vernal")]
    command = [build.ensure()["helm"], "template", "vernal", str(ROOT / "charts" / "vernal"), *values]
    command.append(f"--kube-version={build.NEWEST}")
    rendered = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    made = configuration([found for found in yaml.safe_load_all(rendered) if found])
    jobs = {job["job_name"]: job["honor_labels"] for job in made["scrape_configs"]}
    assert jobs == {
        "vernal/metrics": True,
        "vernal-waker/metrics": True,
        "vernal-workers/admin": False,
        "vernal-workers/http": False,
    }
    (tmp_path / "prometheus.yml").write_text(yaml.safe_dump(made))
    check = [checkers.ensure()["promtool"], "check", "config", str(tmp_path / "prometheus.yml")]
    done = subprocess.run(check, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
