"""Checkpoints against a real API server: a new one on demand, and one that is kept for a node."""

import itertools
import threading
from typing import Any

import msgspec
import pytest
from controlplane.cases import POOL, Case, pool
from vernal_contract import names
from vernal_contract.identity import HostTuple, IdentityInputs
from vernal_contract.state import Phase, RestoreFailure, StartMode, WorkerState
from vernal_operator.api.storage import Storage
from vernal_operator.build.checkpoint import checkpoint_name
from vernal_operator.client import ApiError
from vernal_operator.kinds import CHECKPOINTS, CRONJOBS, JOBS, NODES, PODS, POOLS

pytestmark = pytest.mark.apiserver


def test_a_new_checkpoint_on_demand_rolls_nothing(case: Case) -> None:
    case.invariants.most = 3
    case.start()
    case.create(pool(replicas=2))
    case.wait_settled(2)
    case.expect(fewest_ready=2)
    revision = case.get_pool()["status"]["currentRevision"]
    before = {pod["metadata"]["uid"] for pod in case.items(PODS)}
    (old,) = case.items(CHECKPOINTS)
    case.server.node.ends[case.namespace] = threading.Event()  # or who made it is gone before its own plan has looked
    case.client.patch(POOLS, case.namespace, POOL, {"metadata": {"annotations": {names.ANNOTATION_RENEW: "1"}}})
    case.wait("the new one", lambda: case.get_pool()["status"].get("renewal", {}).get("outcome") == "Renewed")

    def generations() -> list[list[str]]:
        told, listed = case.items(CHECKPOINTS), case.get_pool()["status"]["checkpoints"]
        return [[item["status"]["generation"] for item in told], [entry["generation"] for entry in listed]]

    case.wait("it on the checkpoint, which tells of itself, and on the pool", lambda: generations() == [["g2"], ["g2"]])
    case.server.node.ends[case.namespace].set()
    case.wait_settled(2)
    (new,) = case.items(CHECKPOINTS)
    assert new["metadata"]["uid"] == old["metadata"]["uid"]
    assert old["status"]["generation"] == "g1"
    status = case.get_pool()["status"]
    assert status["renewal"]["replaces"] == ["g1"] and status["currentRevision"] == revision
    assert len(before & {pod["metadata"]["uid"] for pod in case.items(PODS)}) >= 1, "one pod too many went, no more"
    event = case.wait_event("CheckpointRenewed")
    assert event["type"] == "Normal" and "g2" in event["note"]
    case.assert_quiet(5)
    case.change(replicas=3)
    case.wait_settled(3)
    assert case.get_pool()["status"]["restoredReplicas"] >= 1, "the next pod thaws the new one"
    case.invariants.check()


def test_a_neighbour_that_repeats_its_inputs_speaks_for_itself_alone(case: Case) -> None:
    """It has them from the VLLMCheckpoint. It was read three times in 15 s, and the checkpoint was quarantined."""
    case.start()
    case.create(pool(replicas=1))
    case.wait_settled(1)
    case.assert_quiet(1)
    (mine,) = case.items(CHECKPOINTS)
    inputs = msgspec.convert(mine["spec"]["identityInputs"], IdentityInputs)
    host = msgspec.convert(mine["spec"]["host"], HostTuple)
    failure = RestoreFailure(generation="g1", stage="verify", reason="DigestMismatch", message="no")
    reads = itertools.count()

    def lie(state: WorkerState) -> WorkerState:
        return msgspec.structs.replace(
            state, identity=mine["spec"]["identity"], identity_inputs=inputs, host_tuple=mine["spec"]["hostTuple"],
            host=host, artifact=None, freeze=None, restore_failures=[failure], start_id=f"made-up-{next(reads)}",
            start_mode=StartMode.COLD, start_reason="DigestMismatch", phase=Phase.READY, uptime=0.0,
        )  # fmt: skip

    case.server.node.lies[case.namespace, "liar"] = lie
    liar = pool(
        replicas=3, engineArgs={"seed": 9}, checkpoint={"storage": {"claimName": "store"}, "restoreAttempts": 1}
    )
    case.create(liar | {"metadata": {"name": "liar"}})

    def told() -> list[dict[str, Any]]:
        return [event for event in case.events() if event["reason"] == "AnswerDoubted"]

    case.wait("each of them to be doubted", lambda: len(told()) == 3)
    assert {event["regarding"]["name"] for event in told()} == {"liar"}
    assert "engineArgs.seed is None, not 9" in told()[0]["note"]
    case.assert_quiet(1)
    (after,) = case.items(CHECKPOINTS)
    assert after["status"] == mine["status"], "nothing that they say counts"
    assert len(told()) == 3, "once for each"


BUCKET = {"url": "s3://models/vernal", "endpoint": "http://minio:9000", "credentialsSecret": {"name": "bucket"}}


def test_a_pool_with_a_bucket_instead_of_a_claim(case: Case) -> None:
    for storage, says in (
        ({}, "exactly one of claimName and objectStore"),
        ({"claimName": "store", "objectStore": BUCKET}, "exactly one of claimName and objectStore"),
        ({"subPath": "p", "objectStore": BUCKET}, "subPath is of a claim"),
        ({"objectStore": BUCKET | {"url": "models"}}, "spec.checkpoint.storage.objectStore.url"),
        ({"objectStore": {"url": "s3://models"}}, "credentialsSecret: Required value"),
    ):
        with pytest.raises(ApiError, match=says):
            case.create(pool(checkpoint={"storage": storage}))
    checkpoint = {"storage": {"objectStore": BUCKET}, "retention": {"unusedSeconds": 0}}
    beside = pool(replicas=0, checkpoint=checkpoint, kvTransfer={"storage": {"claimName": "store"}})
    case.create(beside | {"metadata": {"name": "with-a-claim-for-kv"}})
    case.start()
    case.create(pool(replicas=2, checkpoint=checkpoint))
    case.wait_settled(2)
    (mine,) = case.items(CHECKPOINTS)
    assert mine["spec"]["storage"] == {"subPath": "", "objectStore": BUCKET}
    change = {"storage": {"objectStore": {"url": "s3://others"}}}
    with pytest.raises(ApiError, match="spec is immutable"):
        case.client.patch(CHECKPOINTS, case.namespace, mine["metadata"]["name"], {"spec": change})
    collector = case.client.get(CRONJOBS, case.namespace, POOL)
    job = collector["spec"]["jobTemplate"]["spec"]["template"]["spec"]
    assert job["containers"][0]["args"][:3] == ["bucket", "gc", BUCKET["url"]] and "volumes" not in job
    case.assert_quiet(2)
    edit = {"spec": {"schedule": "0 0 1 1 *", "suspend": True}}
    case.client._json("patch", CRONJOBS, CRONJOBS.path(case.namespace, POOL), {"fieldManager": "kubectl-edit"}, edit)

    def put_back() -> bool:
        now: dict[str, Any] = case.client.get(CRONJOBS, case.namespace, POOL)["spec"]
        return bool(now["schedule"] == collector["spec"]["schedule"] and now["suspend"])

    case.wait("the schedule to be put back, and what is the user's to stay", put_back)
    case.assert_quiet(2)
    ended: list[dict[str, Any]] = []

    def janitor() -> bool:
        ended.extend(case.items(JOBS))
        return not case.items(CHECKPOINTS)

    case.delete_pool()
    case.wait("the checkpoint to be gone", janitor)
    [container] = ended[0]["spec"]["template"]["spec"]["containers"]
    assert container["args"][:3] == ["bucket", "rm", BUCKET["url"]] and "--gc" in container["args"]
    assert {entry["valueFrom"]["secretKeyRef"]["name"] for entry in container["env"]} == {"bucket"}
    assert "volumes" not in ended[0]["spec"]["template"]["spec"]
    assert [item["metadata"]["name"] for item in case.items(CRONJOBS)] == ["with-a-claim-for-kv"]


def test_a_checkpoint_is_kept_for_a_node_that_fits_and_goes_with_it(case: Case) -> None:
    case.start()
    case.create(pool(replicas=1))
    case.wait_settled(1)
    (mine,) = case.items(CHECKPOINTS)
    # As if a pod had been on a node of another kind, a week ago.
    spec = mine["spec"] | {"hostTuple": "b" * 64}
    other = checkpoint_name(spec["identity"], spec["hostTuple"], Storage(claim_name="store"))
    node = case.client.create(NODES, "", {"apiVersion": "v1", "kind": "Node", "metadata": {"name": case.namespace}})
    meta = {"name": other, "finalizers": mine["metadata"]["finalizers"]}
    body = {"apiVersion": names.API_VERSION, "kind": CHECKPOINTS.name, "metadata": meta, "spec": spec}
    case.client.create(CHECKPOINTS, case.namespace, body)
    case.wait("it to be seen", lambda: "status" in case.client.get(CHECKPOINTS, case.namespace, other))
    case.assert_quiet(1)
    status = case.get_pool()["status"]
    entry = {"name": other, "identity": spec["identity"], "hostTuple": spec["hostTuple"], "nodes": [case.namespace]}
    entries = {"checkpoints": [*status["checkpoints"], entry | {"revision": status["currentRevision"]}]}
    stranger = {"fieldManager": "stranger"}
    case.client._json("patch", POOLS, POOLS.path(case.namespace, POOL, "status"), stranger, {"status": entries})
    case.change(replicas=2)
    case.wait_settled(2)  # so it has seen the entry, too, before the time is up
    over = {"unusedSince": "2026-01-01T00:00:00Z", "retention": {"retain": False, "unusedSeconds": 60}}
    case.client._json(
        "patch", CHECKPOINTS, CHECKPOINTS.path(case.namespace, other, "status"), stranger, {"status": over}
    )

    def kept() -> bool:
        found: list[str] = case.client.get(CHECKPOINTS, case.namespace, other)["status"].get("keptFor", [])
        return found == [case.namespace]

    case.wait("its node to be named", kept)
    assert [e["nodes"] for e in case.get_pool()["status"]["checkpoints"] if e["name"] == other] == [[case.namespace]]
    case.assert_quiet(5)
    case.client.delete(NODES, "", case.namespace, node["metadata"]["uid"])
    # The operator looks again after an hour, or when something happens.
    case.client.patch(CHECKPOINTS, case.namespace, other, {"metadata": {"labels": {"example.com/look": "again"}}})

    def gone() -> bool:
        try:
            case.client.get(CHECKPOINTS, case.namespace, other)
        except ApiError as error:
            return error.not_found
        return False

    case.wait("it to be gone, its files first", gone)
    case.wait("the pool to know", lambda: other not in [e["name"] for e in case.get_pool()["status"]["checkpoints"]])
    case.assert_quiet(5)
