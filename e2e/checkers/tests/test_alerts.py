"""Alerts: Prometheus understands them, they fire when they should and not otherwise, and each has a page about it."""

import subprocess
from pathlib import Path

import pytest
import yaml
from checkers.tests.conftest import CHART, ROOT

pytestmark = pytest.mark.chart

ALERTS = CHART / "files" / "alerts.yaml"
CASES = Path(__file__).with_name("alerts_test.yaml")
RUNBOOKS = ROOT / "docs" / "runbooks"


def promtool(programs: dict[str, str], *args: str | Path) -> str:
    done = subprocess.run([programs["promtool"], *args], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def names() -> list[str]:
    return [rule["alert"] for group in yaml.safe_load(ALERTS.read_text())["groups"] for rule in group["rules"]]


def test_prometheus_understands_them(programs: dict[str, str]) -> None:
    assert f"{len(names())} rules found" in promtool(programs, "check", "rules", "--lint=all", "--lint-fatal", ALERTS)


def test_they_fire_when_they_should(programs: dict[str, str], tmp_path: Path) -> None:
    """Without annotations, which promtool would compare word for word."""
    rules = yaml.safe_load(ALERTS.read_text())
    for group in rules["groups"]:
        for rule in group["rules"]:
            del rule["annotations"]
    (tmp_path / "alerts.yaml").write_text(yaml.safe_dump(rules))
    cases = yaml.safe_load(CASES.read_text()) | {"rule_files": ["alerts.yaml"]}
    (tmp_path / "cases.yaml").write_text(yaml.safe_dump(cases))
    promtool(programs, "test", "rules", tmp_path / "cases.yaml")


def test_each_is_tried_both_ways() -> None:
    tried = [
        (case["alertname"], bool(case["exp_alerts"]))
        for test in yaml.safe_load(CASES.read_text())["tests"]
        for case in test["alert_rule_test"]
    ]
    assert set(tried) == {(name, fires) for name in names() for fires in (True, False)}


def test_each_has_its_runbook() -> None:
    pages = {path.stem: path.read_text() for path in RUNBOOKS.glob("*.md")}
    assert set(pages) == set(names())
    for name, text in pages.items():
        assert text.startswith(f"# {name}\n")
        assert all(f"## {part}\n" in text for part in ("What you see", "Why", "Next command")) and "```sh\n" in text
    for group in yaml.safe_load(ALERTS.read_text())["groups"]:
        for rule in group["rules"]:
            assert rule["annotations"]["runbook"] == f"docs/runbooks/{rule['alert']}.md"
            assert {"summary", "description"} < set(rule["annotations"]) and rule["labels"]["severity"]
