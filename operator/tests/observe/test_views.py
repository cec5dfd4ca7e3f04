"""What becomes of the API server's JSON."""

import json
import logging
from typing import Any

import msgspec
import pytest
from vernal_operator.observe import views
from vernal_operator.plan.model import ContainerView, JobView, NodeView, Taint
from vernal_operator.plan.times import epoch


def pod(**status: Any) -> dict[str, Any]:
    return {
        "metadata": {
            "name": "pool-12345678-3",
            "namespace": "ns",
            "uid": "u",
            "resourceVersion": "42",
            "creationTimestamp": "2026-11-21T08:00:00Z",
            "labels": {"vernal.dev/pool": "pool", "vernal.dev/revision": "12345678", "vernal.dev/slot": "3"},
            "annotations": {"controller.kubernetes.io/pod-deletion-cost": "-7"},
            "ownerReferences": [
                {"name": "x", "uid": "other", "kind": "X", "apiVersion": "v1"},
                {"name": "pool", "uid": "pool-uid", "controller": True, "kind": "Y", "apiVersion": "v1"},
            ],
        },
        "spec": {"containers": [{"name": "worker", "image": "i"}]},
        "status": status,
    }


def seen(obj: dict[str, Any]) -> views.SeenPod:
    raw = msgspec.json.decode(msgspec.json.encode(obj), type=views.PODS_READER.raw)
    entry = views.PODS_READER.entry(raw)
    assert entry is not None
    return entry.view


def test_a_pod_that_waits_for_a_node() -> None:
    condition = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "0/3 nodes fit"}
    view = seen(pod(phase="Pending", conditions=[condition])).view
    assert (view.revision, view.slot, view.deletion_cost, view.created) == ("12345678", 3, -7, 1795248000.0)
    assert (view.scheduled, view.running, view.ready, view.unschedulable) == (False, False, False, "0/3 nodes fit")


def test_a_pod_that_waits_for_its_gates() -> None:
    gated = pod(phase="Pending", conditions=[{"type": "PodScheduled", "status": "False", "reason": "SchedulingGated"}])
    gated["spec"]["schedulingGates"] = [{"name": "kueue.x-k8s.io/admission"}]
    view = seen(gated).view
    assert (view.gates, view.unschedulable, view.scheduled) == (("kueue.x-k8s.io/admission",), "", False)


def test_a_pod_that_serves() -> None:
    obj = pod(
        phase="Running",
        podIP="10.0.0.7",
        conditions=[{"type": "Ready", "status": "True", "lastTransitionTime": "2026-11-21T08:01:00Z"}],
        containerStatuses=[
            {"name": "sidecar", "restartCount": 9, "state": {"waiting": {"reason": "No"}}},
            {
                "name": "worker",
                "restartCount": 2,
                "state": {"running": {"startedAt": "2026-11-21T08:00:30Z"}},
                "lastState": {"terminated": {"exitCode": 137, "reason": "OOMKilled"}},
            },
        ],
    )
    obj["spec"]["nodeName"] = "n1"
    found = seen(obj)
    view = found.view
    assert (found.address, view.node, view.running, view.ready) == ("10.0.0.7", "n1", True, True)
    assert view.ready_since == view.created + 60
    assert view.container_started == view.created + 30
    assert (view.restarts, view.last_exit_code, view.last_exit_reason, view.waiting_reason) == (2, 137, "OOMKilled", "")


def test_a_container_that_crashes() -> None:
    waiting = {"waiting": {"reason": "CrashLoopBackOff"}}
    ended = {"terminated": {"exitCode": 1, "reason": "Error"}}
    status = {"name": "worker", "restartCount": 4, "state": waiting, "lastState": ended}
    view = seen(pod(phase="Running", containerStatuses=[status])).view
    assert (view.running, view.waiting_reason, view.last_exit_code) == (False, "CrashLoopBackOff", 1)


def container(name: str, ready: bool = False, restarts: int = 0, **state: Any) -> dict[str, Any]:
    last = {"lastState": {"terminated": state.pop("last")}} if "last" in state else {}
    return {"name": name, "ready": ready, "restartCount": restarts, "state": state, **last}


INITIALIZING = container("worker", waiting={"reason": "PodInitializing"})
RUNNING = {"startedAt": "2026-11-21T08:00:30Z"}


def test_an_init_container_whose_image_cannot_be_pulled() -> None:
    inits = [
        container("first", ready=True, terminated={"exitCode": 0, "reason": "Completed"}),
        container("weights", waiting={"reason": "ImagePullBackOff"}),
        container("last", waiting={"reason": "PodInitializing"}),
    ]
    view = seen(pod(phase="Pending", initContainerStatuses=inits, containerStatuses=[INITIALIZING])).view
    assert view.beside == ContainerView("weights", waiting_reason="ImagePullBackOff")
    assert (view.restarts, view.running) == (0, False)


def test_an_init_container_that_crashes() -> None:
    ended = {"exitCode": 3, "reason": "Error", "message": "no such bucket"}
    for status in (
        container("weights", restarts=4, waiting={"reason": "CrashLoopBackOff"}, last=ended),
        container("weights", restarts=4, terminated=ended),
        container("weights", restarts=4, running=RUNNING, last=ended),
    ):
        view = seen(pod(phase="Pending", initContainerStatuses=[status], containerStatuses=[INITIALIZING])).view
        assert view.beside is not None and (view.beside.name, view.beside.restarts) == ("weights", 4)
        assert (view.beside.last_exit_code, view.beside.last_exit_message) == (3, "no such bucket")


def test_a_sidecar_that_crashes() -> None:
    ended = {"exitCode": 1, "reason": "Error"}
    side = container("side", restarts=2, waiting={"reason": "CrashLoopBackOff"}, last=ended)
    worker = container("worker", ready=True, running=RUNNING)
    not_ready = [{"type": "Ready", "status": "False"}]
    view = seen(pod(phase="Running", conditions=not_ready, containerStatuses=[side, worker])).view
    assert view.beside is not None and view.beside.name == "side" and view.running and not view.restarts
    for worker_too in (
        container("worker", restarts=1, waiting={"reason": "CrashLoopBackOff"}, last=ended),
        container("worker", waiting={"reason": "ImagePullBackOff"}),
    ):
        view = seen(pod(phase="Running", conditions=not_ready, containerStatuses=[side, worker_too])).view
        assert view.beside is None, "the worker's own words tell more"


def test_nothing_is_wrong_beside_a_worker_that_starts() -> None:
    ended = {"exitCode": 1, "reason": "Error"}
    statuses = {
        "initContainerStatuses": [
            container("done", ready=True, restarts=1, terminated={"exitCode": 0}, last=ended),
            container("mesh", ready=True, restarts=1, running=RUNNING, last=ended),
            container("at work", running=RUNNING),
        ],
        "containerStatuses": [container("side", waiting={"reason": "PodInitializing"}), INITIALIZING],
    }
    assert seen(pod(phase="Pending", **statuses)).view.beside is None
    side = container("side", restarts=9, waiting={"reason": "CrashLoopBackOff"}, last=ended)
    ready = [{"type": "Ready", "status": "True", "lastTransitionTime": "2026-11-21T08:01:00Z"}]
    assert seen(pod(phase="Running", conditions=ready, containerStatuses=[side])).view.beside is None


def test_nulls_are_absent_and_odd_labels_no_error() -> None:
    obj = pod(phase="Running", conditions=None, containerStatuses=None, podIP=None)
    obj["metadata"] |= {"annotations": None, "finalizers": None}
    obj["metadata"]["labels"]["vernal.dev/slot"] = "first"
    assert seen(obj).view.slot == -1


def test_entries_know_their_controller_and_pool() -> None:
    entry = views.PODS_READER.convert(pod(phase="Running"))
    assert entry is not None
    assert (entry.owner, entry.group, entry.version) == ("pool-uid", "pool", 42)


def test_a_pool_whose_spec_does_not_parse_is_a_pool_with_an_error() -> None:
    meta = {"name": "p", "namespace": "ns", "uid": "u", "resourceVersion": "1"}
    entry = views.POOLS_READER.convert(
        {"metadata": meta, "spec": {"replicas": -1, "image": "i", "model": {"name": "m"}}}
    )
    assert entry is not None and entry.view.spec is None
    assert "spec.replicas" in entry.view.spec_error


def test_a_checkpoint_that_does_not_parse_is_left_alone(caplog: pytest.LogCaptureFixture) -> None:
    meta = {"name": "c", "namespace": "ns", "uid": "u", "resourceVersion": "1"}
    with caplog.at_level(logging.ERROR):
        assert views.CHECKPOINTS_READER.convert({"metadata": meta, "spec": {"identity": "short"}}) is None
    assert "VLLMCheckpoint ns/c is left alone" in caplog.text and "identity" in caplog.text


@pytest.mark.parametrize(
    ("conditions", "succeeded", "failed", "message"),
    [
        ([], False, False, ""),
        ([{"type": "Complete", "status": "True"}], True, False, ""),
        ([{"type": "Failed", "status": "True", "reason": "BackoffLimitExceeded"}], False, True, "BackoffLimitExceeded"),
        ([{"type": "Complete", "status": "False"}], False, False, ""),
    ],
)
def test_jobs(conditions: list[dict[str, str]], succeeded: bool, failed: bool, message: str) -> None:
    meta = {"name": "j", "namespace": "ns", "uid": "u", "resourceVersion": "1"}
    entry = views.JOBS_READER.convert({"metadata": meta, "status": {"conditions": conditions}})
    assert entry is not None
    assert (entry.view.succeeded, entry.view.failed, entry.view.message) == (succeeded, failed, message)
    meta |= {"deletionTimestamp": "2026-11-21T08:00:00Z"}
    going = views.JOBS_READER.convert({"metadata": meta, "status": {"conditions": conditions}})
    assert not entry.view.going and going is not None and going.view == JobView("j", "u", going=True)


def test_a_job_that_fetches() -> None:
    told = {"vernal.dev/node": "n", "vernal.dev/generation": "g"}
    meta = {"name": "j", "namespace": "ns", "uid": "u", "resourceVersion": "1", "annotations": told}
    ended = {"type": "Failed", "status": "True", "message": "no", "lastTransitionTime": "2026-11-21T08:00:00Z"}
    for conditions, expected in (([], None), ([ended], epoch("2026-11-21T08:00:00Z"))):
        entry = views.JOBS_READER.convert({"metadata": meta, "status": {"conditions": conditions}})
        assert entry is not None
        assert (entry.view.node, entry.view.generation, entry.view.ended) == ("n", "g", expected)


@pytest.mark.parametrize(
    ("spec", "status", "ready"),
    [
        ({}, {"conditions": [{"type": "Ready", "status": "True"}]}, True),
        ({"unschedulable": True}, {"conditions": [{"type": "Ready", "status": "True"}]}, False),
        ({}, {"conditions": [{"type": "Ready", "status": "Unknown"}]}, False),
        ({}, {"conditions": None}, False),
        ({}, {}, False),
    ],
)
def test_nodes(spec: dict[str, Any], status: dict[str, Any], ready: bool) -> None:
    meta = {"name": "n", "uid": "u", "resourceVersion": "1", "labels": {"a": "b"}}
    more = {"allocatable": {"cpu": "8"}, "nodeInfo": {"architecture": "amd64", "kernelVersion": "6.18.1"}}
    taints = {"taints": [{"key": "k", "effect": "NoSchedule"}]}
    entry = views.NODES_READER.convert({"metadata": meta, "spec": spec | taints, "status": status | more})
    assert entry is not None and entry.view == NodeView(
        name="n", ready=ready, labels={"a": "b"}, taints=(Taint("k", "", "NoSchedule"),), allocatable={"cpu": "8"},
        architecture="amd64", kernel="6.18.1",
    )  # fmt: skip
    assert views.NODES_READER.convert({"metadata": meta}) is not None


@pytest.mark.parametrize("reader", [*views.CHILD_READERS, views.REVISIONS_READER], ids=lambda r: r.kind.name)
def test_what_a_foreign_finalizer_keeps_is_seen_to_go(reader: views.Reader[Any]) -> None:
    meta: dict[str, Any] = {"name": "j", "namespace": "ns", "uid": "u", "resourceVersion": "1"}
    for more, expected in (({}, False), ({"deletionTimestamp": "2026-11-21T08:00:00Z"}, True)):
        entry = reader.convert({"metadata": meta | more})
        assert entry is not None and entry.view.going is expected


@pytest.mark.parametrize(
    ("data", "spec"),
    [
        ({"spec": "{}", "config": "c"}, "{}"),
        ({"spec": {"template": {}}}, ""),
        (None, ""),
        ([1], ""),
        ({"spec": None}, ""),
    ],
)
def test_a_controller_revision_of_any_sort_stops_nobody(data: Any, spec: str) -> None:
    labels = {"vernal.dev/pool": "p", "vernal.dev/revision": "abc"}
    meta = {"name": "p-abc", "namespace": "ns", "uid": "u", "resourceVersion": "1", "labels": labels}
    entry = views.REVISIONS_READER.convert({"metadata": meta, "data": data, "revision": 3})
    assert entry is not None and entry.group == "p"
    assert (entry.view.revision, entry.view.number, entry.view.spec) == ("abc", 3, spec)


def test_last_words_of_a_job_s_pod() -> None:
    ended = {"name": "janitor", "state": {"terminated": {"exitCode": 0, "message": "words"}}}
    runs = {"name": "janitor", "state": {"running": {}}}
    pods = [{"metadata": {}, "status": {"containerStatuses": [status]}} for status in (runs, ended)]
    assert views.termination_messages(json.dumps({"items": [*pods, {"metadata": {}}]}).encode()) == ["words"]


@pytest.mark.parametrize("moment", ["0000-01-01T00:00:00Z", "2026-11-25T00:00:00+99:99", "2026-02-29T00:00:00Z"])
def test_what_a_status_says_and_cannot_be_is_as_if_it_were_not_there(moment: str) -> None:
    """Kubernetes' check of date-time lets it through; the plan writes the field anew."""
    seen = {"unusedSince": moment, "restores": 3, "conditions": [], "ofTomorrow": {"x": 1}}
    spec = {"identity": "a" * 64, "hostTuple": "b" * 64, "model": "m", "image": "i", "storage": {"claimName": "c"}}
    entry = views.CHECKPOINTS_READER.convert({"metadata": {"name": "c"}, "spec": spec, "status": seen})
    assert entry is not None and entry.view.status == {"restores": 3, "conditions": [], "ofTomorrow": {"x": 1}}


@pytest.mark.parametrize("moment", ["2026-11-25T00:00:00Z", "2026-11-25t00:00:00z", "2026-11-25T01:00:00.000+01:00"])
def test_a_moment_however_it_is_written(moment: str) -> None:
    assert epoch(moment) == 1795564800.0
