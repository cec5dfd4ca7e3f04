"""Metrics are named by Prometheus' conventions, and every query of dashboards and alerts finds data in them."""

import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from checkers.tests import exported
from checkers.tests.conftest import CHART

pytestmark = pytest.mark.chart

DASHBOARDS = sorted((CHART / "files" / "dashboards").glob("*.json"))
ALERTS = CHART / "files" / "alerts.yaml"
VARIABLES = {"$namespace": ".*", "$pool": ".*", "$__rate_interval": "5m"}


@pytest.fixture(scope="module")
def engine() -> str:
    return exported.engine()


@pytest.fixture(scope="module")
def everything(engine: str) -> list[tuple[str, str, bool]]:
    return exported.everything(engine)


@pytest.mark.parametrize("who", ["operator", "waker", "worker", "engine"])
def test_names_follow_the_conventions(programs: dict[str, str], engine: str, who: str) -> None:
    text = engine if who == "engine" else getattr(exported, who)()
    ours = "".join(line for line in text.splitlines(True) if re.match(r"(# (HELP|TYPE) )?vernal_", line))
    assert "vernal_" in ours
    done = subprocess.run(
        [programs["promtool"], "check", "metrics"], input=ours, capture_output=True, text=True, check=False
    )
    complaints = [line for line in (done.stdout + done.stderr).splitlines() if "_created" not in line]
    assert (complaints, done.returncode in (0, 3)) == ([], True)


def test_labels_are_few(everything: list[tuple[str, str, bool]]) -> None:
    """Nothing that grows without bound, such as a request or a process, is a label of ours."""
    ours = "pool checkpoint claim kind result resource verb code reason type mode outcome phase stage thread"
    theirs = "namespace pod job endpoint exported_namespace le engine model_name direction operation"
    labels = {*ours.split(), *theirs.split()}
    for name, series, _ in everything:
        if name.startswith("vernal_"):
            assert set(re.findall(r'(\w+)="', series)) <= labels, series


def panels() -> Iterator[tuple[str, str]]:
    for path in DASHBOARDS:
        for panel in json.loads(path.read_text())["panels"]:
            for target in panel["targets"]:
                yield f"{path.stem}: {panel['title']} {target['refId']}", target["expr"]


def rules() -> Iterator[tuple[str, dict[str, Any]]]:
    for group in yaml.safe_load(ALERTS.read_text())["groups"]:
        for rule in group["rules"]:
            yield rule["alert"], rule


def test_every_query_of_a_dashboard_finds_data(
    programs: dict[str, str], everything: list[tuple[str, str, bool]], tmp_path: Path
) -> None:
    """Evaluated by Prometheus' own engine, over what is really exported: an hour of each series."""
    queries = []
    for where, expression in panels():
        for name, value in VARIABLES.items():
            expression = expression.replace(name, value)
        assert "$" not in expression, where
        queries.append((where, expression))
    assert len(queries) > 50
    found = [
        {"expr": f"count({query}) > bool 0", "eval_time": "1h", "exp_samples": [{"labels": "{}", "value": 1}]}
        for _, query in queries
    ]
    none = {"expr": "count(vernal_no_such_metric) > bool 0", "eval_time": "1h", "exp_samples": []}
    inputs = [{"series": series, "values": "1+1x70" if grows else "1x70"} for _, series, grows in everything]
    test = {"interval": "1m", "input_series": inputs, "promql_expr_test": [*found, none]}
    file = tmp_path / "queries.yaml"
    file.write_text(yaml.safe_dump({"rule_files": [], "evaluation_interval": "1m", "tests": [test]}))
    done = subprocess.run(
        [programs["promtool"], "test", "rules", str(file)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_metric_of_an_alert_is_exported(everything: list[tuple[str, str, bool]]) -> None:
    """With the labels that it is selected by; which values they have is a matter of the alert's own test."""
    for alert, rule in rules():
        selectors = re.findall(r"(vernal_\w+)(?:\{([^}]*)\})?", rule["expr"])
        assert selectors, alert
        for name, matchers in selectors:
            of_it = [series for exported_name, series, _ in everything if exported_name == name]
            assert of_it, f"{alert}: nobody exports {name}"
            for label in re.findall(r"(\w+)\s*[=!]", matchers):
                assert f'{label}="' in of_it[0], f"{alert}: {name} has no label {label}"


def test_dashboards_are_whole() -> None:
    assert [path.stem for path in DASHBOARDS] == ["drains", "operator", "pools", "starts", "storage"]
    uids = set()
    for path in DASHBOARDS:
        board = json.loads(path.read_text())
        uids.add(board["uid"])
        ids = [panel["id"] for panel in board["panels"]]
        assert len(set(ids)) == len(ids)
        for panel in board["panels"]:
            assert panel["title"] and panel["description"] and panel["fieldConfig"]["defaults"]["unit"], panel
            assert panel["datasource"]["uid"] == "${datasource}"
            if panel["type"] in ("stat", "bargauge"):  # without, what is above 80 of anything is red in Grafana
                assert panel["fieldConfig"]["defaults"]["thresholds"]["steps"] == [{"color": "green", "value": None}]
        places = {(x, y) for panel in board["panels"] for x, y in _cells(panel["gridPos"])}
        assert len(places) == sum(panel["gridPos"]["w"] * panel["gridPos"]["h"] for panel in board["panels"]), path
    assert len(uids) == len(DASHBOARDS)


def _cells(place: dict[str, int]) -> Iterator[tuple[int, int]]:
    assert place["x"] + place["w"] <= 24
    for x in range(place["x"], place["x"] + place["w"]):
        for y in range(place["y"], place["y"] + place["h"]):
            yield x, y
