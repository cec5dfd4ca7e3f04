"""What the verbs say, over objects that a real API server and operator gave (recorded/world.json), and over what
becomes of those when something is wrong.
"""

import copy
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from kubectl_vernal import read
from kubectl_vernal.errors import NotFoundError
from kubectl_vernal.output import when
from kubectl_vernal.read import CHECKPOINTS, POOLS, World
from kubectl_vernal.views import checkpoints, doctor, explain, pods, rollback, status, thaw, timeline
from vernal_contract import names
from vernal_contract.reasons import NEXT_STEP, Reason
from vernal_operator.plan.revision import _NOT_IN_PODS

RECORDED = json.loads((Path(__file__).parent / "recorded" / "world.json").read_text())
Change = Callable[[dict[str, Any]], None]


def world(change: Change = lambda raw: None) -> World:
    raw = copy.deepcopy(RECORDED)
    change(raw)
    return World(**raw)


def pool(raw: dict[str, Any], called: str = "qwen") -> dict[str, Any]:
    return next(one for one in raw["objects"][POOLS] if one["metadata"]["name"] == called)


def pod_of(found: World, mode: str, called: str = "qwen") -> dict[str, Any]:
    there = found.pods_of(found.pool("demo", called) or {})
    return next(pod for pod in there if (found.state(pod) or {}).get("startMode") == mode)


# --- status -------------------------------------------------------------------------------------------------


def test_a_settled_pool_is_all_well() -> None:
    found = status.view(world())
    assert [one["name"] for one in found] == ["qwen", "qwen-long"]
    assert status.all_ready(found)
    text = "\n".join(status.details(found[0]))
    assert "Why not ready" not in text and "Drains" not in text and "(proven)" in text


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda raw: pool(raw)["status"].update(observedGeneration=0), "the operator has not looked at this spec yet"),
        (lambda raw: _condition(raw, "Degraded", "True", "QuotaExceeded"), "QuotaExceeded: because"),
        (lambda raw: _condition(raw, "Ready", "False", "NoneReady"), "NoneReady: because"),
        (lambda raw: _condition(raw, "Progressing", "True", "Proving"), "Proving: because"),
    ],
)
def test_the_headline_is_what_matters_most(change: Change, said: str) -> None:
    assert said in status.overview(status.view(world(change)))[1]


def _condition(raw: dict[str, Any], kind: str, value: str, reason: str) -> None:
    entry = next(one for one in pool(raw)["status"]["conditions"] if one["type"] == kind)
    entry.update(status=value, reason=reason, message="because")


def test_a_rejected_revision_is_told_with_what_was_before() -> None:
    def change(raw: dict[str, Any]) -> None:
        pool(raw)["status"].update(
            updateRevision="11111111",
            rejected={"revision": "11111111", "time": "2026-11-25T10:00:00Z", "message": "no such image"},
        )

    (line,) = (one for one in status.details(status.view(world(change))[0]) if one.startswith("  Revision"))
    assert "11111111, not proven; " in line and "REJECTED" in line and "no such image" in line


def test_an_autoscaler_is_shown_with_its_metric_and_its_problem() -> None:
    def change(raw: dict[str, Any]) -> None:
        raw["objects"]["horizontalpodautoscalers"] = [
            {
                "metadata": {"name": "qwen", "namespace": "demo"},
                "spec": {"maxReplicas": 8, "scaleTargetRef": {"kind": "VLLMWorkerPool", "name": "qwen"}},
                "status": {
                    "currentReplicas": 2,
                    "desiredReplicas": 3,
                    "currentMetrics": [
                        {"type": "Pods", "pods": {"metric": {"name": "in_flight"}, "current": {"averageValue": "18"}}}
                    ],
                    "conditions": [
                        {"type": "ScalingActive", "status": "False", "reason": "FailedGetPodsMetric"},
                        {"type": "AbleToScale", "status": "True", "reason": "ReadyForNewScale"},
                    ],
                },
            }
        ]

    (line,) = (one for one in status.details(status.view(world(change))[0]) if one.startswith("  Autoscaling"))
    assert line.split("  ")[-1] == "1 to 8, now 2, wants 3; in_flight 18; ScalingActive: FailedGetPodsMetric"


WHY: list[tuple[str, Change, str]] = [
    (
        "unschedulable",
        lambda pod: _pod_condition(pod, "PodScheduled", "False", "0/2 nodes have a GPU"),
        "no node takes it: 0/2 nodes have a GPU",
    ),
    (
        "unpullable",
        lambda pod: _container(pod, {"waiting": {"reason": "ImagePullBackOff", "message": "no such image"}}),
        "ImagePullBackOff: no such image",
    ),
    (
        "crashing",
        lambda pod: _container(
            pod,
            {"waiting": {"reason": "CrashLoopBackOff"}},
            {"terminated": {"exitCode": 10, "message": "EngineStartFailed: no"}},
        ),
        "CrashLoopBackOff; its last container ended with exit code 10: EngineStartFailed: no",
    ),
    (
        "ended",
        lambda pod: _container(pod, {"terminated": {"exitCode": 137, "reason": "OOMKilled"}}),
        "its last container ended with exit code 137: OOMKilled",
    ),
    ("starting", lambda pod: None, "its worker is Ready"),
]


@pytest.mark.parametrize(("change", "why"), [pytest.param(*rest, id=name) for name, *rest in WHY])
def test_why_a_pod_is_not_ready(change: Change, why: str) -> None:
    found = world()
    pod = copy.deepcopy(pod_of(found, "Cold"))
    _pod_condition(pod, "Ready", "False", "")
    change(pod)
    assert pods.why_not_ready(found, pod) == why


def _pod_condition(pod: dict[str, Any], kind: str, value: str, message: str) -> None:
    entry = next(one for one in pod["status"]["conditions"] if one["type"] == kind)
    entry.update(status=value, message=message)


def _container(pod: dict[str, Any], state: dict[str, Any], last: dict[str, Any] | None = None) -> None:
    (entry,) = pod["status"]["containerStatuses"]
    entry.update(state=state, lastState=last or {}, ready=False)


def test_a_worker_that_is_not_heard_says_why() -> None:
    found = world()
    pod = copy.deepcopy(pod_of(found, "Cold"))
    _pod_condition(pod, "Ready", "False", "")
    deaf = replace(found, states={}, silent={read.key(pod): "no answer on its admin port"})
    assert pods.why_not_ready(deaf, pod) == "its worker was not heard: no answer on its admin port"
    assert explain.text(explain.view(deaf, pod))[1].strip().endswith("no answer on its admin port")


def test_every_reason_that_is_a_failure_has_its_next_step() -> None:
    assert {reason for reason in Reason if pods.next_step(reason.value)} == set(NEXT_STEP)
    assert pods.next_step(None) == pods.next_step("SomethingNewer") == ""


# --- checkpoints --------------------------------------------------------------------------------------------


def test_a_quarantined_checkpoint_says_so_and_why() -> None:
    def change(raw: dict[str, Any]) -> None:
        entry = next(
            one for one in raw["objects"][CHECKPOINTS][0]["status"]["conditions"] if one["type"] == "Quarantined"
        )
        entry.update(status="True", reason="Quarantined", message="failed 3 times")

    rows = checkpoints.view(world(change))
    (one,) = (row for row in rows if row["state"] == "Quarantined")
    assert checkpoints.text(rows)[-1] == f"{one['name']}: Quarantined: failed 3 times"


def test_one_that_is_deleted_is_on_its_way() -> None:
    def change(raw: dict[str, Any]) -> None:
        raw["objects"][CHECKPOINTS][0]["metadata"]["deletionTimestamp"] = "2026-11-25T10:00:00Z"

    assert "Deleting" in {row["state"] for row in checkpoints.view(world(change))}


def test_a_checkpoint_in_a_bucket_is_shown_with_its_url() -> None:
    def change(raw: dict[str, Any]) -> None:
        raw["objects"][CHECKPOINTS][0]["spec"]["storage"] = BUCKET

    assert "s3://models/vernal" in [row["claim"] for row in checkpoints.view(world(change))]


BUCKET = {"subPath": "", "objectStore": {"url": "s3://models/vernal", "credentialsSecret": {"name": "bucket"}}}

# --- explain ------------------------------------------------------------------------------------------------


def test_a_failed_thaw_is_explained_with_the_next_step() -> None:
    def change(raw: dict[str, Any]) -> None:
        state = next(one for one in raw["states"].values() if one["startMode"] == "Cold" and one["pool"] == "qwen")
        state["startReason"] = "DigestMismatch"
        state["restoreFailures"] = [
            {"generation": "g1", "stage": "verify", "reason": "DigestMismatch", "message": "memory-12.bin"}
        ]

    found = world(change)
    text = "\n".join(explain.text(explain.view(found, pod_of(found, "Cold"))))
    assert "DigestMismatch at stage verify: memory-12.bin" in text
    assert NEXT_STEP[Reason.DIGEST_MISMATCH] in text


def test_more_of_cpu_and_mounts_does_no_harm_and_another_driver_does() -> None:
    def change(raw: dict[str, Any]) -> None:
        for state in raw["states"].values():
            state["host"]["cpuFeatures"] = [*state["host"]["cpuFeatures"], "zfuture"]
            state["host"]["gpuDriver"] = "600.1"

    found = world(change)
    view = explain.view(found, pod_of(found, "Restored"))
    assert view["checkpoints"][0]["identity"] == []
    assert view["checkpoints"][0]["host"] == ["gpuDriver: artifact has '580.159.04', this host has '600.1'"]


# --- timeline -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("begin", "end", "bar"),
    [
        (0, 10, "#" * 10),
        (0, 5, "#" * 5),
        (5, 10, "     #####"),
        (0, 0.01, "#"),
        (9.99, 10, "         #"),
        (5, 5, "     |"),
    ],
)
def test_bars_are_as_long_as_what_they_show(begin: float, end: float, bar: str) -> None:
    assert timeline.bar(begin, end, 10, 10) == bar


def test_phases_are_shown_when_they_went_on() -> None:
    """Of an older worker, which does not tell, their lengths."""
    found = world()
    pod = pod_of(found, "Restored")
    timings = {"criu": 1.0, "weights": 2.0, "canary": 0.5, "total": 4.0}
    key = f"{pod['metadata']['namespace']}/{pod['metadata']['name']}"

    def rows(begun: dict[str, float]) -> list[tuple[str, int, int]]:
        state = {**(found.states[key] or {}), "timings": timings, "begun": begun}
        text = timeline.text(timeline.view(replace(found, states={**found.states, key: state}), pod, None))
        shown = [line for line in text if line.split()[:1] and line.split()[0] in timings]
        return [(line.split()[0], line.index("#"), line.count("#")) for line in shown]

    told = {"weights": 1.0, "criu": 0.5, "canary": 3.5}
    (first, at, long), (second, after, longer), (third, last, short) = rows(told)
    assert (first, second, third) == ("criu", "weights", "canary"), "as they began"
    assert (after - at, last - at) == (5, 30) and (long, longer, short) == (10, 20, 5), "40 marks are 4 s"
    assert len({begin for _, begin, _ in rows({"criu": 0.5})}) == 1


def test_a_drain_shows_its_budget_and_where_it_is() -> None:
    found = world()
    pod = copy.deepcopy(pod_of(found, "Cold"))
    ends = when("2026-11-25T10:02:00Z")
    assert ends is not None
    pod["metadata"] |= {"deletionTimestamp": "2026-11-25T10:02:00Z", "deletionGracePeriodSeconds": 120}
    view = timeline.view(replace(found, now=ends - 60), pod, found.pool("demo", "qwen"))
    assert [(part["begin"], part["end"]) for part in view["drain"]["budget"]] == [(0, 5), (5, 95), (95, 120)]
    assert view["drain"]["begunSeconds"] == 60
    (now,) = (line for line in timeline.text(view) if line.strip().startswith("now"))
    (runs,) = (line for line in timeline.text(view) if "requests run on" in line)
    assert runs.index("#") < now.index("^") < runs.rindex("#"), "half of the time is over: they run on"


def test_a_pod_of_which_nothing_is_known_says_so() -> None:
    bare = {"metadata": {"name": "p", "namespace": "n", "creationTimestamp": "2026-11-25T10:00:00Z"}, "spec": {}}
    assert timeline.text(timeline.view(World(0.0), bare, None))[-1].strip() == "nothing has happened yet"


# --- thaw ---------------------------------------------------------------------------------------------------


def test_nodes_are_told_apart_by_what_they_say_of_themselves() -> None:
    found = world()
    view = thaw.view(found, found.pool("demo", "qwen") or {})
    assert {node["name"]: node["verdict"] for node in view["nodes"]} == {"node": "yes", "other": "cold"}
    assert view["would"] == "yes"


def _on(change: Change) -> dict[str, str]:
    """Verdicts when the fitting node, or the pool, is changed."""
    found = world(change)
    view = thaw.view(found, found.pool("demo", "qwen") or {})
    return {node["name"]: node["verdict"] + " " + "; ".join(node["why"]) for node in view["nodes"]}


def _fitting(raw: dict[str, Any]) -> dict[str, Any]:
    return next(node for node in raw["objects"]["nodes"] if node["metadata"]["name"] == "node")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda raw: _fitting(raw)["metadata"]["labels"].clear(), "unknown gpuProduct: the node does not tell"),
        (lambda raw: _fitting(raw)["status"]["allocatable"].clear(), "no nvidia.com/gpu: 1 wanted, the node has none"),
        (lambda raw: _fitting(raw)["spec"].update(unschedulable=True), "no the node is cordoned"),
        (
            lambda raw: _fitting(raw)["spec"].update(taints=[{"key": "gpu", "effect": "NoSchedule"}]),
            "no taint gpu:NoSchedule is not tolerated",
        ),
        (
            lambda raw: _fitting(raw)["status"]["nodeInfo"].update(kernelVersion="6.1.0-amd64"),
            "cold kernel: artifact has '6.18', the node has '6.1'",
        ),
        (
            lambda raw: pool(raw)["spec"].update(podTemplate={"spec": {"nodeSelector": {"zone": "a"}}}),
            "no nodeSelector zone=a: the node has no such label",
        ),
    ],
)
def test_why_a_node_would_not_thaw(change: Change, said: str) -> None:
    assert _on(change)["node"].startswith(said)


@pytest.mark.parametrize(
    ("toleration", "tolerated"),
    [
        ({"operator": "Exists"}, True),
        ({"key": "gpu", "operator": "Exists"}, True),
        ({"key": "gpu", "value": "yes"}, True),
        ({"key": "gpu", "value": "no"}, False),
        ({"key": "gpu", "operator": "Exists", "effect": "NoExecute"}, False),
    ],
)
def test_tolerations_as_the_scheduler_reads_them(toleration: dict[str, str], tolerated: bool) -> None:
    def change(raw: dict[str, Any]) -> None:
        _fitting(raw)["spec"]["taints"] = [{"key": "gpu", "value": "yes", "effect": "NoSchedule"}]
        pool(raw)["spec"]["podTemplate"] = {"spec": {"tolerations": [toleration]}}

    assert _on(change)["node"].startswith("yes" if tolerated else "no")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda raw: pool(raw)["spec"]["checkpoint"].update(policy="Disabled"), "spec.checkpoint.policy is Disabled"),
        (lambda raw: raw["objects"].update({CHECKPOINTS: []}), "is not there any more"),
        (lambda raw: pool(raw)["status"].pop("checkpoint"), "new pods thaw"),
        (
            lambda raw: pool(raw)["status"].update(updateRevision="22222222"),
            "no worker of 22222222 has reported one yet",
        ),
    ],
)
def test_what_speaks_against_it_on_any_node(change: Change, said: str) -> None:
    found = world(change)
    view = thaw.view(found, found.pool("demo", "qwen") or {})
    assert view["would"] == "no" and said in view["obstacle"]


# --- rollback -----------------------------------------------------------------------------------------------


def test_what_no_revision_keeps_is_what_the_operator_says() -> None:
    from pydantic.alias_generators import to_camel

    mine = {to_camel(field): inner for field, inner in _NOT_IN_PODS.items()}
    assert mine == rollback._NOT_IN_PODS


def test_a_spec_that_is_the_revision_has_nothing_to_change() -> None:
    found = world()
    one = found.pool("demo", "qwen") or {}
    of_it = replace(found, objects={**found.objects, "controllerrevisions": _revisions(found, "qwen")})
    kept = rollback.choose(of_it, one, one["status"]["updateRevision"])
    assert rollback.changes(one["spec"], rollback.spec_of(one, kept)) == []


def _revisions(found: World, called: str) -> list[dict[str, Any]]:
    return [one for one in found.of("controllerrevisions") if read.labels(one)[names.LABEL_POOL] == called]


def test_nulls_of_the_pod_template_come_back_and_replicas_stay() -> None:
    found = world()
    one = copy.deepcopy(found.pool("demo", "qwen") or {})
    (kept,) = copy.deepcopy(_revisions(found, "qwen"))
    content = json.loads(kept["data"]["spec"])
    content["podTemplate"] = {"spec": {"securityContext": None}}
    content["image"] = "old"
    kept["data"]["spec"] = json.dumps(content)
    one["spec"] |= {"replicas": 7, "rollout": {"paused": True}}
    one["spec"]["checkpoint"]["retention"] = {"policy": "Retain"}
    spec = rollback.spec_of(one, kept)
    assert spec["podTemplate"] == {"spec": {"securityContext": None}}
    assert (spec["image"], spec["replicas"], spec["rollout"]) == ("old", 7, {"paused": True})
    assert spec["checkpoint"]["retention"] == {"policy": "Retain"}
    assert "model" in spec and None not in spec.values()


def test_without_a_name_it_is_what_proved_itself() -> None:
    found = world()
    one = copy.deepcopy(found.pool("demo", "qwen") or {})
    (kept,) = _revisions(found, "qwen")
    there = replace(found, objects={"controllerrevisions": [kept]})
    proven = rollback.called(kept)
    one["status"] |= {"updateRevision": "33333333", "currentRevision": proven}
    assert rollback.choose(there, one, "") is kept
    one["status"]["updateRevision"] = proven
    with pytest.raises(NotFoundError, match=proven):
        rollback.choose(there, one, "")


def test_what_looks_like_a_secret_is_not_shown() -> None:
    have = {"env": [{"name": "HF_TOKEN", "value": "one-secret"}], "image": "a"}
    want = {"env": [{"name": "HF_TOKEN", "value": "another"}], "image": "b"}
    text = "\n".join(rollback.changes(have, want))
    assert 'spec.image: "a" becomes "b"' in text
    assert "one-secret" not in text and "another" not in text


# --- doctor -------------------------------------------------------------------------------------------------

EVERYTHING = doctor.Rights({right[:3]: True for right in doctor.RIGHTS}, "demo")
VERSION = {"major": "1", "minor": "37", "gitVersion": "v1.37.2"}


def checks(change: Change = lambda raw: None, rights: doctor.Rights = EVERYTHING) -> dict[str, doctor.Check]:
    def at_the_lease(raw: dict[str, Any]) -> None:
        raw["now"] = when(_lease(raw)["spec"]["renewTime"])
        change(raw)

    return {check.what: check for check in doctor.view(world(at_the_lease), VERSION, rights)}


def test_all_is_well_where_it_is() -> None:
    found = checks()
    assert doctor.is_well(list(found.values()))
    assert found["Your rights"].outcome == found["Node node"].outcome == "ok"


@pytest.mark.parametrize(
    ("what", "change", "outcome"),
    [
        ("CRD vllmworkerpools", lambda raw: raw["objects"].update(customresourcedefinitions=[]), "bad"),
        ("Operator", lambda raw: raw["objects"].update(leases=[]), "bad"),
        ("Operator", lambda raw: raw["objects"].pop("leases") and raw["unread"].update(leases="403"), "unknown"),
        ("Operator, Lease vernal-system/demo", lambda raw: raw.update(now=raw["now"] + 3600), "bad"),
        (
            "Operator, Lease vernal-system/demo",
            lambda raw: _lease(raw)["spec"].update(holderIdentity=""),
            "bad",
        ),
        ("Claim demo/store", lambda raw: raw["objects"].update(persistentvolumeclaims=[]), "bad"),
        ("Claim demo/store", lambda raw: _claim(raw, "Bound", ["ReadWriteOnce"]), "warn"),
        ("Claim demo/store", lambda raw: _claim(raw, "Bound", ["ReadWriteMany"]), "ok"),
        ("Node node", lambda raw: _fitting(raw)["status"]["nodeInfo"].update(kernelVersion="5.4.0"), "warn"),
        (
            "Node node",
            lambda raw: _fitting(raw)["metadata"]["labels"].update({"nvidia.com/cuda.driver-version.full": "550.54"}),
            "warn",
        ),
    ],
)
def test_what_is_not_well_is_found(what: str, change: Change, outcome: str) -> None:
    found = checks(change)[what]
    assert found.outcome == outcome
    assert found.do or outcome in ("ok", "unknown")


def test_a_pool_with_a_bucket_needs_no_claim() -> None:
    def change(raw: dict[str, Any]) -> None:
        for one in raw["objects"][POOLS]:
            one["spec"]["checkpoint"]["storage"] = BUCKET
        raw["objects"].update(persistentvolumeclaims=[])

    found = checks(change)
    assert doctor.is_well(list(found.values())) and not [what for what in found if what.startswith("Claim")]


def _lease(raw: dict[str, Any]) -> dict[str, Any]:
    return next(lease for lease in raw["objects"]["leases"] if lease["metadata"]["name"] == "demo")


def _claim(raw: dict[str, Any], phase: str, modes: list[str]) -> None:
    (claim,) = raw["objects"]["persistentvolumeclaims"]
    claim["status"]["phase"], claim["spec"]["accessModes"] = phase, modes


def test_a_right_that_is_missing_says_what_for() -> None:
    lacking = doctor.Rights({**EVERYTHING.allowed, ("get", "", "pods/proxy"): False}, "demo")
    found = checks(rights=lacking)["Your right to get pods/proxy"]
    assert found.outcome == "warn" and "explain" in found.found


def test_an_old_kubernetes_is_told() -> None:
    (first, *_) = doctor.view(world(), {"major": "1", "minor": "33+", "gitVersion": "v1.33.0-eks"}, EVERYTHING)
    assert first.outcome == "bad"
