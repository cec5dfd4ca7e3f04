"""What the queries of dashboards find in series, by promtool, which has Prometheus' engine and says what it got."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from dashboards.story import MINUTES

VARIABLES = {"$namespace": ".*", "$pool": ".*", "$__rate_interval": "5m"}
STEP = 3
"""Minutes from one point to the next."""
_NONE = [{"labels": '{no="such"}', "value": 0}]
"""Never what is found, so that promtool says what is."""
_ANSWER = re.compile(r'^    expr: ("(?:[^"\\]|\\.)*"), time: (\w+),[^\n]*\n\s+exp: .*?\n\s+got: (.*?)$', re.M)
_SAMPLE = re.compile(r'\{((?:\w+="(?:[^"\\]|\\.)*"(?:, )?)*)\} ([-+.\w]+)')
_LABEL = re.compile(r'(\w+)="((?:[^"\\]|\\.)*)"')

Points = dict[tuple[tuple[str, str], ...], list[float | None]]
"""By labels: a value for each of `times()`, None where there is none."""


def times() -> list[int]:
    """Minutes of the points."""
    return list(range(0, MINUTES + 1, STEP))


def expression(query: str) -> str:
    """A query with the dashboard's variables at `All`."""
    for name, value in VARIABLES.items():
        query = query.replace(name, value)
    return query


def evaluate(
    promtool: str, series: Iterable[tuple[str, str]], queries: Sequence[str], folder: Path
) -> dict[str, Points]:
    """The points of each query.

    Raises:
        RuntimeError: promtool said something else than what it got, such as what is wrong with a query.
    """
    wanted = [
        {"expr": expression(query), "eval_time": f"{minute}m", "exp_samples": _NONE}
        for query in dict.fromkeys(queries)
        for minute in times()
    ]
    inputs = [{"series": one, "values": values} for one, values in series]
    test = {"interval": "1m", "input_series": inputs, "promql_expr_test": wanted}
    file = folder / "queries.yaml"
    file.write_text(json.dumps({"rule_files": [], "evaluation_interval": "1m", "tests": [test]}))  # which is YAML, too
    done = subprocess.run([promtool, "test", "rules", str(file)], capture_output=True, text=True, check=False)
    found: dict[str, Points] = {expression(query): {} for query in queries}
    answers = _ANSWER.findall(done.stdout + done.stderr)
    if len(answers) != len(wanted):
        raise RuntimeError(
            f"promtool answered {len(answers)} of {len(wanted)} queries: {(done.stdout + done.stderr)[-2000:]}"
        )
    places = {f"{minute}m": place for place, minute in enumerate(times())} | _spelt()
    for text, when, got in answers:
        points = found[json.loads(text)]
        for labels, value in _SAMPLE.findall(got):
            key = tuple(sorted(_LABEL.findall(labels)))
            points.setdefault(key, [None] * len(times()))[places[when]] = float(value)
    return {query: found[expression(query)] for query in queries}


def _spelt() -> dict[str, int]:
    """As Prometheus writes them: 1h3m, 0s."""
    out = {"0s": 0}
    for place, minute in enumerate(times()):
        hours, rest = divmod(minute, 60)
        out[(f"{hours}h" if hours else "") + (f"{rest}m" if rest else "")] = place
    return out


def legend(template: str, labels: dict[str, str]) -> str:
    """As Grafana fills a legend in."""
    return re.sub(r"\{\{(\w+)\}\}", lambda match: labels.get(match[1], ""), template)


def panels(board: dict[str, Any], points: dict[str, Points]) -> list[dict[str, Any]]:
    """The board's panels, each with its series by legend."""
    return [
        panel
        | {
            "series": {
                legend(target["legendFormat"], dict(labels)): values
                for target in panel["targets"]
                for labels, values in sorted(points[target["expr"]].items())
            }
        }
        for panel in board["panels"]
    ]


def load(folder: Path) -> dict[str, dict[str, Any]]:
    """The dashboards of a folder by name."""
    return {path.stem: json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))}
