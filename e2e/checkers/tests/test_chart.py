"""The chart without a cluster: Helm's own check, custom resources against their CRDs' schemas, README, versions."""

import json
import re
import subprocess
import tarfile
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import checkers
import pytest
import yaml
from checkers.tests.conftest import CHART, EXAMPLES, ROOT, Rendered
from cluster import build

chart = pytest.mark.chart


@chart
@pytest.mark.parametrize("values", EXAMPLES, ids=lambda path: path.stem)
def test_helm_finds_nothing_wrong(programs: dict[str, str], values: Path) -> None:
    command = [programs["helm"], "lint", "--strict", str(CHART), f"--values={values}", f"--kube-version={build.OLDEST}"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert not re.search(r"WARNING|ERROR", done.stdout + done.stderr)


@chart
def test_the_readme_is_that_of_the_values(programs: dict[str, str]) -> None:
    command = [programs["helm-docs"], "--dry-run", f"--chart-search-root={CHART}"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == (CHART / "README.md").read_text().strip(), "run `make chart-docs`"


def test_every_value_is_explained() -> None:
    """helm-docs takes the comment that begins with `--`, right before the value."""
    lines = (CHART / "values.yaml").read_text().splitlines()
    explained, comment = set[str](), False
    path: list[str] = []
    for line in lines:
        if found := re.match(r"^( *)([A-Za-z]\w*):", line):
            path = [*path[: len(found[1]) // 2], found[2]]
            if comment:
                explained.add(".".join(path))
        comment = line.strip().startswith("# --") or (comment and line.strip().startswith("#"))
    for leaf in _leaves(yaml.safe_load("\n".join(lines)), ""):
        assert any(leaf == name or leaf.startswith(f"{name}.") for name in explained), leaf


def _leaves(values: dict[str, Any], path: str) -> Iterator[str]:
    for name, value in values.items():
        here = f"{path}.{name}" if path else name
        if isinstance(value, dict) and value:
            yield from _leaves(value, here)
        else:
            yield here


def test_the_schema_knows_every_value() -> None:
    schema = json.loads((CHART / "values.schema.json").read_text())

    def compare(values: dict[str, Any], node: dict[str, Any], path: str) -> None:
        if "$ref" in node:
            node = schema["definitions"][node["$ref"].rsplit("/", 1)[1]]
        known = node.get("properties")
        if known is None:
            return
        assert set(values) == set(known) - {"global"}, path
        for name, value in values.items():
            if isinstance(value, dict):
                compare(value, known[name], f"{path}.{name}")

    compare(yaml.safe_load((CHART / "values.yaml").read_text()), schema, "")


@chart
def test_custom_resources_fit_their_schemas(programs: dict[str, str], rendered: Rendered, tmp_path: Path) -> None:
    """Those that the chart makes, and all examples, by kubeconform, which refuses fields that the CRD does not have."""
    for path in [*checkers.monitoring_crds(), *(ROOT / "crds").glob("*.yaml")]:
        crd = yaml.safe_load(path.read_text())
        for version in crd["spec"]["versions"]:
            schema = _closed(version["schema"]["openAPIV3Schema"])
            (tmp_path / f"{crd['spec']['names']['kind']}_{version['name']}.json".lower()).write_text(json.dumps(schema))
    documents = [document for values in EXAMPLES for document in rendered(values)]
    annotations = yaml.safe_load((CHART / "Chart.yaml").read_text())["annotations"]
    documents += yaml.safe_load(annotations["artifacthub.io/crdsExamples"])
    for example in (ROOT / "docs" / "examples").glob("*.yaml"):
        documents += yaml.safe_load_all(example.read_text())
    # An example may also be values of another chart.
    ours = [
        one for one in documents if one.get("apiVersion", "").split("/")[0] in ("vernal.dev", "monitoring.coreos.com")
    ]
    assert {one["kind"] for one in ours} == {"VLLMWorkerPool", "PodMonitor", "PrometheusRule"}

    def check(documents: list[dict[str, Any]]) -> subprocess.CompletedProcess[str]:
        location = f"{tmp_path}/{{{{.ResourceKind}}}}_{{{{.ResourceAPIVersion}}}}.json"
        command = [programs["kubeconform"], "-strict", "-schema-location", location]
        text = yaml.safe_dump_all(documents)
        return subprocess.run(command, input=text, capture_output=True, text=True, check=False)

    done = check(ours)
    assert done.returncode == 0, done.stdout + done.stderr
    done = check([{**ours[0], "spec": {**ours[0]["spec"], "replicsa": 1}}])
    assert done.returncode == 1 and "replicsa" in done.stdout


def _closed(node: Any) -> Any:
    """The schema as the API server's strict validation takes it: no fields but those that it names."""
    if isinstance(node, list):
        return [_closed(item) for item in node]
    if not isinstance(node, dict):
        return node
    out = {key: _closed(value) for key, value in node.items()}
    open_ended = "additionalProperties" in node or node.get("x-kubernetes-preserve-unknown-fields")
    if isinstance(node.get("properties"), dict) and not open_ended:
        out["additionalProperties"] = False
    if node.get("x-kubernetes-int-or-string"):
        return {"anyOf": [{"type": "integer"}, {"type": "string"}]}
    return out


@chart
@pytest.mark.parametrize("values", EXAMPLES, ids=lambda path: path.stem)
def test_every_alert_of_the_values_keeps_its_words(rendered: Rendered, values: Path) -> None:
    """The PrometheusRule has what the file has, with the values' labels and the runbook's address."""
    wanted = yaml.safe_load(values.read_text()).get("prometheusRule", {})
    found = [one for one in rendered(values) if one["kind"] == "PrometheusRule"]
    assert len(found) == int(wanted.get("enabled", False))
    file = yaml.safe_load((CHART / "files" / "alerts.yaml").read_text())
    for rule in found:
        made = rule["spec"]["groups"]
        for group, mine in zip(file["groups"], made, strict=True):
            for alert, other in zip(group["rules"], mine["rules"], strict=True):
                assert other["labels"] == alert["labels"] | wanted["alertLabels"]
                url = f"{wanted['runbookUrl']}/{alert['alert']}.md"
                assert other["annotations"] == alert["annotations"] | {"runbook_url": url}
                own = 'vernal_operator_leader{namespace="vernal-system"}'  # each release tells of itself
                expr = alert["expr"].replace("vernal_operator_leader", own)
                assert (other["expr"], other.get("for")) == (expr, alert.get("for"))


def test_there_is_one_version() -> None:
    """pyproject.toml says it; nothing that users read says another."""
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    about = yaml.safe_load((CHART / "Chart.yaml").read_text())
    assert (about["version"], about["appVersion"]) == (version, version)
    newest = re.search(r"^## (\d+\.\d+\.\d+\S*)", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert newest is not None and newest[1] == version
    tags = {
        path.name: set(re.findall(r"vernal-(?:worker|operator):(\S+)", path.read_text()))
        for path in (*(ROOT / "docs" / "examples").glob("*.yaml"), CHART / "Chart.yaml")
    }
    assert {name for name, found in tags.items() if found} >= {"pool.yaml", "kueue.yaml", "mesh.yaml", "Chart.yaml"}
    assert set().union(*tags.values()) == {version}, tags


@chart
def test_what_is_released_is_whole(programs: dict[str, str], tmp_path: Path) -> None:
    """The package that the release workflow pushes: it renders without this checkout, and holds what users read."""
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    command = [programs["helm"], "package", str(CHART), f"--version={version}", f"--app-version={version}"]
    subprocess.run([*command, f"--destination={tmp_path}"], check=True, capture_output=True)
    package = tmp_path / f"vernal-{version}.tgz"
    with tarfile.open(package) as archive:
        names = {name.removeprefix("vernal/") for name in archive.getnames()}
    assert {"README.md", "values.schema.json", "files/alerts.yaml", "files/dashboards/pools.json"} <= names
    assert not [name for name in names if name.startswith("ci/") or name.endswith(".gotmpl")]
    render = [programs["helm"], "template", "vernal", str(package), f"--kube-version={build.OLDEST}"]
    for values in EXAMPLES:
        done = subprocess.run([*render, f"--values={values}"], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
