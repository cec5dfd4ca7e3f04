"""Every verb of the kubectl plugin against a real API server, with the operator and workers that answer.

What the verbs print is compared with docs/plugin.md, ages and times aside; VERNAL_WRITE_DOCS=1 writes it there instead,
and what was read to plugin/tests/recorded, which the plugin's pure tests compute over.
"""

import argparse
import contextlib
import io
import json
import os
import re
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from cluster.apiserver import ApiServer
from controlplane import plugin_demo
from controlplane.cases import CORE, Server
from controlplane.plugin_demo import BENCH, BYTES, NAMESPACE, ROOT, SECRET, WRITE, Demo
from kubectl_vernal.main import main, parser
from vernal_contract import names
from vernal_operator.client import ApiError
from vernal_operator.kinds import BUDGETS, PODS, POOLS

pytestmark = pytest.mark.apiserver

PAGE = ROOT / "docs" / "plugin.md"


@pytest.fixture(scope="module")
def demo(server: Server, api: ApiServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Demo]:
    with plugin_demo.prepared(server, api, tmp_path_factory.mktemp("plugin")) as demo:
        yield demo


# --- what only looks ----------------------------------------------------------------------------------------


def test_status_of_all_pools_is_a_line_each(demo: Demo) -> None:
    said = demo.shown["kubectl vernal status"]
    assert said.code == 0, said
    head, *rows = said.text.splitlines()
    assert head.split()[:2] == ["NAME", "READY"]
    assert [row.split()[:2] for row in rows] == [["qwen", "2/2"], ["qwen-long", "1/1"]]


def test_status_of_a_pool_tells_how_each_pod_started(demo: Demo) -> None:
    (found,) = demo.shown["kubectl vernal status qwen -o json"].data
    assert sorted(pod["startMode"] for pod in found["pods"]) == ["Cold", "Restored"]
    assert found["checkpoint"]["state"] == "Ready" and found["checkpoint"]["sizeBytes"] == BYTES
    assert found["revision"]["wanted"] == found["revision"]["proven"]
    text = demo.shown["kubectl vernal status qwen"].text
    assert "\x1b" not in text, "no colour without a terminal"
    assert {pod["name"] for pod in found["pods"]} <= set(text.split())


def test_explain_names_the_field_that_differs(demo: Demo) -> None:
    said = demo.shown[f"kubectl vernal explain {demo.long}"]
    assert said.code == 1, "it started cold"
    assert "engineArgs.max_model_len: artifact has 8192, this host has 16384" in said.text
    assert demo.shown[f"kubectl vernal explain {demo.thawed}"].code == 0


def test_timeline_shows_each_phase_that_the_worker_timed(demo: Demo) -> None:
    said = demo.shown[f"kubectl vernal timeline {demo.thawed}"]
    for phase in BENCH["thaws"][0]["timings"]:
        assert phase == "total" or re.search(rf"^  {phase} .*#", said.text, re.MULTILINE), phase


def test_thaw_says_on_which_nodes(demo: Demo) -> None:
    said = demo.shown["kubectl vernal thaw --dry-run qwen"]
    assert said.code == 0, said
    rows = {line.split()[0]: line for line in said.text.splitlines() if line.startswith("  ") and len(line.split()) > 2}
    assert " thaws" in rows["node"]
    assert "starts cold" in rows["other"] and "'575.57.08'" in rows["other"]
    assert demo.shown["kubectl vernal thaw qwen"].code == 2, "only --dry-run"


def test_checkpoints_are_listed_with_their_users(demo: Demo) -> None:
    text = demo.shown["kubectl vernal checkpoints"].text
    assert [line.split()[-2] for line in text.splitlines()[1:]] in (["qwen", "qwen-long"], ["qwen-long", "qwen"])
    assert "driver 580.159.04" in demo.shown["kubectl vernal checkpoints -o wide"].text


def test_logs_of_all_pods_with_their_names(demo: Demo) -> None:
    said = demo.shown["kubectl vernal logs qwen"]
    assert said.code == 0, said
    assert {line.partition(":")[0] for line in said.text.splitlines()} == {demo.thawed, demo.cold}
    followed = demo.shown[f"kubectl vernal logs {demo.thawed} --follow"]
    assert followed.text.splitlines()[0] == "event=phase phase=Thawing"


def test_a_report_holds_everything_but_secrets(demo: Demo) -> None:
    with tarfile.open(demo.directory / "bundle.tar.gz") as archive:
        files = {entry.name.removeprefix("vernal-report/"): archive.extractfile(entry) for entry in archive}
        texts = {name: file.read().decode() for name, file in files.items() if file is not None}
    assert {
        f"states/{demo.thawed}.json",
        f"logs/{demo.thawed}.log",
        "vllmworkerpools.json",
        "nodes.json",
    } <= texts.keys()
    assert json.loads(texts["not-read.json"]) == {}
    assert not [name for name, text in texts.items() if SECRET in text]
    assert "HF_TOKEN" in texts["vllmworkerpools.json"], "the name stays"
    assert "phase=Thawing" in texts[f"logs/{demo.thawed}.log"]


def test_doctor_finds_the_operator_and_what_storage_lacks(demo: Demo) -> None:
    said = demo.shown["kubectl vernal doctor"]
    rows = [
        line for line in said.text.splitlines() if line.startswith(("Operator", "CRD", "Claim", "Your", "Kubernetes"))
    ]
    assert any(
        row.startswith(f"Operator, Lease vernal-system/{NAMESPACE}") and f"{NAMESPACE} leads" in row for row in rows
    )
    assert sum(row.startswith("CRD") and " ok " in row for row in rows) == 2
    assert any(row.startswith("Your rights") for row in rows), "the administrator lacks none"
    assert any("Claim demo/store" in row and "warn" in row for row in rows), "nobody binds it here"


# --- what changes something ---------------------------------------------------------------------------------


def test_pause_holds_a_roll_and_lets_it_go_on(demo: Demo) -> None:
    demo.wait_settled()
    assert demo.run("pause qwen").code == 0
    assert demo.pool()["spec"]["rollout"]["paused"] is True
    assert "already" in demo.run("pause qwen").text
    before = {pod["metadata"]["uid"] for pod in demo.pods()}
    demo.client.patch(POOLS, NAMESPACE, "qwen", {"spec": {"engineArgs": {"max_model_len": 8000}}})
    demo.case.wait("it to be held", lambda: _reason(demo.pool(), "Progressing") == "RolloutPaused")
    assert {pod["metadata"]["uid"] for pod in demo.pods()} == before
    assert "paused" in demo.run("status qwen").text
    demo.client.patch(POOLS, NAMESPACE, "qwen", {"spec": {"engineArgs": {"max_model_len": 8192}}})
    assert demo.run("pause qwen --resume").code == 0
    demo.wait_settled()
    assert not demo.pool()["spec"]["rollout"].get("paused")


def test_freeze_asks_with_a_value_that_was_not_there(demo: Demo) -> None:
    def asked() -> str | None:
        return (demo.pool()["metadata"].get("annotations") or {}).get(names.ANNOTATION_RENEW)

    before = asked()
    assert demo.run("freeze qwen --dry-run").code == 0 and asked() == before
    assert demo.run("freeze qwen").code == 0
    first = asked()
    assert first is not None and first != before
    assert demo.run("freeze qwen").code == 0 and asked() not in (first, None)

    def renewed() -> bool:
        told = demo.pool()["status"].get("renewal", {})
        return bool(told.get("request") == asked() and told["outcome"] == "Renewed")

    demo.case.wait("the new checkpoint, for which a pod comes and one goes", renewed)
    demo.wait_settled()


def test_rollback_brings_back_what_pods_are_made_of_and_nothing_else(demo: Demo) -> None:
    demo.wait_settled()
    good = demo.pool()
    change = {"image": "registry.example.com/vernal-worker:0.2.0", "engineArgs": {"max_model_len": 4096}}
    demo.client.patch(POOLS, NAMESPACE, "qwen", {"spec": change | {"rollout": {"minReadySeconds": 1}}})
    demo.case.wait(
        "the roll to end",
        lambda: demo.settled() and demo.pool()["status"]["updateRevision"] != good["status"]["updateRevision"],
    )
    tried = demo.run("rollback qwen --dry-run")
    assert tried.code == 0 and "max_model_len: 4096 becomes 8192" in tried.text, tried
    assert demo.pool()["spec"]["image"].endswith("0.2.0")
    said = demo.run(f"rollback qwen --to {good['status']['updateRevision']}")
    assert said.code == 0, said
    demo.case.wait(
        "the old revision",
        lambda: demo.settled() and demo.pool()["status"]["updateRevision"] == good["status"]["updateRevision"],
    )
    now = demo.pool()["spec"]
    assert (now["image"], now["engineArgs"]) == (good["spec"]["image"], good["spec"]["engineArgs"])
    assert now["rollout"]["minReadySeconds"] == 1, "no pod is made of it"
    assert "already" in demo.run(f"rollback qwen --to {good['status']['updateRevision']}").text
    assert demo.run("rollback qwen --to 00000000").code == 4
    demo.client.patch(POOLS, NAMESPACE, "qwen", {"spec": {"rollout": {"minReadySeconds": 0}}})
    demo.wait_settled()


def test_drain_keeps_to_the_budget_and_shows_how_far_it_is(demo: Demo) -> None:
    demo.wait_settled()
    victim = demo.pods()[0]["metadata"]
    refused = demo.run(f"drain {victim['name']}")  # nobody counts for the budget here, so it allows none
    assert refused.code == 1 and "budget" in refused.text, refused
    budget = demo.client.get(BUDGETS, NAMESPACE, "qwen")
    allowed = {
        "disruptionsAllowed": 1, "currentHealthy": 2, "desiredHealthy": 1, "expectedPods": 2,
        "observedGeneration": budget["metadata"]["generation"],
    }  # fmt: skip
    demo.client._json("patch", BUDGETS, BUDGETS.path(NAMESPACE, "qwen", "status"), None, {"status": allowed})
    assert demo.run(f"drain {victim['name']} --dry-run").code == 0
    assert "deletionTimestamp" not in demo.client.get(PODS, NAMESPACE, victim["name"])["metadata"]
    demo.held.clear()
    try:
        said = demo.run(f"drain {victim['name']}")
        assert said.code == 0, said
        assert victim["name"] in demo.run("status qwen").text.partition("Drains")[2]
        shown = demo.run(f"timeline {victim['name']}").text.partition("Drain\n")[2]
        assert "accepts requests   0 to 5" in shown and "^" in shown, shown
    finally:
        demo.held.set()
    demo.case.wait(
        "another pod in its place",
        lambda: demo.settled() and victim["uid"] not in {p["metadata"]["uid"] for p in demo.pods()},
    )


# --- what goes wrong ----------------------------------------------------------------------------------------


def test_what_is_not_there_is_told_with_what_is(demo: Demo) -> None:
    said = demo.run("status nothing")
    assert said.code == 4 and "there are qwen, qwen-long" in said.errors, said
    assert demo.run("explain nothing").code == 4


def test_a_pod_of_no_pool_is_left_alone(demo: Demo) -> None:
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "somebody"},
        "spec": {"containers": [{"name": "c", "image": "x"}]},
    }
    made = demo.client.create(PODS, NAMESPACE, pod)
    try:
        said = demo.run("drain somebody")
        assert said.code == 4 and "no pod of a pool 'somebody'" in said.errors, said
        assert "deletionTimestamp" not in demo.client.get(PODS, NAMESPACE, "somebody")["metadata"]
    finally:
        demo.client.delete(PODS, NAMESPACE, "somebody", made["metadata"]["uid"])


def test_who_may_not_is_told_what_the_api_server_said(demo: Demo, server: Server) -> None:
    account = {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "nobody"}}
    with contextlib.suppress(ApiError):
        demo.client.create(CORE["ServiceAccount"], NAMESPACE, account)
    asked = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {}}
    path = CORE["ServiceAccount"].path(NAMESPACE, "nobody", "token")
    token = demo.client._json("create", CORE["ServiceAccount"], path, None, asked)["status"]["token"]
    config = yaml.safe_load(demo.kubeconfig.read_text())
    config["users"] = [{"name": user["name"], "user": {"token": token}} for user in config["users"]]
    mine = demo.directory / "nobody.kubeconfig"
    mine.write_text(yaml.safe_dump(config))
    errors = io.StringIO()
    with contextlib.redirect_stderr(errors):
        assert main(["status", "--kubeconfig", str(mine)]) == 3
    assert "is forbidden" in errors.getvalue() and "Traceback" not in errors.getvalue()
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        assert main(["doctor", "--kubeconfig", str(mine)]) in (0, 1)
    assert "Your right to list pods" in out.getvalue()


def test_names_are_completed(demo: Demo, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("KUBECONFIG", str(demo.kubeconfig))
    assert main(["__complete", "status", "qwen-"]) == 0
    assert capsys.readouterr().out.splitlines() == ["qwen-long", ":4"]


def test_kubectl_finds_it_and_ends_as_it_does(demo: Demo, api: ApiServer, tmp_path: Path) -> None:
    program = tmp_path / "kubectl-vernal"
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -m kubectl_vernal "$@"\n')
    program.chmod(0o755)
    environment = os.environ | {
        "PATH": f"{tmp_path}:{os.environ['PATH']}",
        "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
        "KUBECONFIG": str(demo.kubeconfig),
    }

    def kubectl(*words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [api.kubectl, "vernal", *words], env=environment, capture_output=True, text=True, check=False
        )

    assert "qwen-long" in kubectl("status").stdout
    missing = kubectl("explain", "nothing")
    assert missing.returncode == 4 and "no pod of a pool 'nothing'" in missing.stderr, missing


# --- the page -----------------------------------------------------------------------------------------------


def test_the_page_shows_what_the_verbs_print(demo: Demo) -> None:
    page = PAGE.read_text()
    blocks = re.findall(r"```console\n\$ (kubectl vernal [^\n]*)\n(.*?)```", page, re.S)
    assert len(blocks) >= 8
    for line, text in blocks:
        said = demo.shown.get(_of_another_run(line, demo) if _POD.search(line) else line)
        assert said is not None, f"{line} is on the page, and no test runs it"
        if WRITE:
            command = next(key for key, value in demo.shown.items() if value is said)
            page = page.replace(f"$ {line}\n{text}```", f"$ {command}\n{said.text}```")
        else:
            assert _steady(text) == _steady(said.text), f"{line}: run this test with VERNAL_WRITE_DOCS=1"
    if WRITE:
        PAGE.write_text(page)


_POD = re.compile(r"\b(qwen(?:-long)?)-[0-9a-f]{8}-\d\b")


def _of_another_run(line: str, demo: Demo) -> str:
    """Which of the two pods thaws is a race, and a revision's name changes with the schema's defaults."""
    verb = line.split()[2]
    same = [key for key in demo.shown if key.split()[2] == verb and len(key.split()) == len(line.split())]
    cold = "qwen-long" in line
    return next((key for key in same if ("qwen-long" in key) == cold), "")


def _steady(text: str) -> list[str]:
    """Without what differs from run to run: times, ages, names made of hashes, and so the width of columns."""
    text = re.sub(r"\b\d{4}-\d\d-\d\dT[\d:.]+Z\b", "TIME", text)
    text = _POD.sub(r"\1-POD", text)
    text = re.sub(r"\b[0-9a-f]{12}-[0-9a-f]{8}\b", "CHECKPOINT", text)
    text = re.sub(r"\b[0-9a-f]{8,64}\b", "HASH", text)
    text = re.sub(r"\b\d+(?:[dhms]\d*)+\b", "AGE", text)
    kubernetes = re.compile(
        r"^  (scheduled|container started|ready) .*$", re.MULTILINE
    )  # whole seconds of a fake kubelet
    text = kubernetes.sub(r"  \1", text)
    return sorted(re.sub(r"\s+", " ", line).strip() for line in text.splitlines() if line.strip())


def test_every_verb_is_tried_here() -> None:
    (action,) = (a for a in parser()._actions if isinstance(a, argparse._SubParsersAction))
    tests = Path(__file__).read_text() + Path(plugin_demo.__file__).read_text()
    tried = set(re.findall(r'(?:run|show)\(f?"(\w+)', tests)) | set(
        re.findall(r'^            f?"(\w+)[ "]', tests, re.MULTILINE)
    )
    assert set(action.choices) - tried - {"completion"} == set()


def _reason(item: dict[str, Any], kind: str) -> str:
    return next((str(c["reason"]) for c in item.get("status", {}).get("conditions", []) if c["type"] == kind), "")
