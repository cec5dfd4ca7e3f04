"""What a pool makes of what its workers say about checkpoints."""

from dataclasses import replace
from typing import Any

import pytest
from plan.factory import (
    HOST_TUPLE,
    IDENTITY,
    NOW,
    artifact,
    condition,
    creator,
    failed_creator,
    pool,
    published,
    ready,
    snapshot,
    spec,
    starting,
    worker,
)
from vernal_contract.state import Phase, RestoreFailure, StartMode
from vernal_operator.plan import plan
from vernal_operator.plan.model import PodView
from vernal_operator.plan.revision import revision

FAILURE = RestoreFailure(generation="g1", stage="verify", reason="DigestMismatch", message="pages-1.img")


def test_the_first_report_makes_a_checkpoint_and_the_second_does_not() -> None:
    done = plan(snapshot(spec(), ready(0, worker=creator())))
    [manifest] = done.create_checkpoints
    assert (manifest["spec"]["identity"], manifest["spec"]["hostTuple"]) == (IDENTITY, HOST_TUPLE)
    assert manifest["spec"]["identityInputs"]["imageId"] == "i" and manifest["spec"]["host"]["kernel"] == "6.18"
    assert manifest["spec"]["storage"] == {"claimName": "store", "subPath": ""}
    assert "ownerReferences" not in manifest["metadata"], "it outlives the pool"
    assert manifest["metadata"]["finalizers"] == ["vernal.dev/artifact-files"]
    again = plan(snapshot(spec(), ready(0, worker=creator()), checkpoints=(published(manifest),)))
    assert not again.create_checkpoints


def test_pools_of_one_identity_and_store_share_a_checkpoint_and_other_stores_do_not() -> None:
    def name(**fields: Any) -> str:
        done = plan(snapshot(spec(**fields), ready(0, spec=spec(**fields), worker=creator())))
        return str(done.create_checkpoints[0]["metadata"]["name"])

    assert name() == name(replicas=1, rollout={"maxSurge": 2})
    assert name() != name(checkpoint={"storage": {"claimName": "other"}})
    assert name() != name(checkpoint={"storage": {"claimName": "store", "subPath": "a"}})


def test_status_refers_to_the_checkpoint_also_when_no_pod_is_left() -> None:
    first = plan(snapshot(spec(), ready(0, worker=creator())))
    assert first.status is not None
    view = published(first.create_checkpoints[0])
    expected = {"name": view.name, "identity": IDENTITY, "revision": revision(spec()), "generation": "g1"}
    assert first.status["checkpoint"] == expected
    empty = plan(snapshot(spec(replicas=0), status=first.status, checkpoints=(view,)))
    assert empty.status is not None and empty.status["checkpoint"] == expected
    assert condition(empty.status, "CheckpointReady") == ("True", "Published")
    gone = plan(snapshot(spec(replicas=0), status=first.status))
    assert gone.status is not None and "checkpoint" not in gone.status
    other = plan(snapshot(spec(replicas=0, image="worker:2"), status=first.status, checkpoints=(view,)))
    assert other.status is not None and "checkpoint" not in other.status, "another revision, another identity"


STARTING = worker(ready=False, phase=Phase.STARTING, artifact=None)
FREEZING = worker(ready=False, phase=Phase.FREEZING, artifact=None)
CASES: dict[str, tuple[tuple[PodView, ...], tuple[str, str]]] = {
    "no pod yet": ((), ("False", "Pending")),
    "starting": ((starting(0, worker=STARTING),), ("False", "Pending")),
    "freezing": ((starting(0, worker=FREEZING),), ("False", "Freezing")),
    "published": ((ready(0, worker=creator()),), ("True", "Published")),
    "thawed": ((ready(0),), ("True", "Published")),
    "failed": ((ready(0, worker=failed_creator()),), ("False", "FreezeFailed")),
    "host": (
        (ready(0, worker=creator(artifact=None, freeze=None, start_reason="HostUnsupported")),),
        ("False", "HostUnsupported"),
    ),
    "silent": ((replace(ready(0), worker=None, answered_at=None),), ("Unknown", "WorkerUnreachable")),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_checkpoint_ready(name: str) -> None:
    pods, expected = CASES[name]
    assert condition(plan(snapshot(spec(), *pods)).status, "CheckpointReady") == expected


def test_disabled() -> None:
    off = spec(checkpoint={"policy": "Disabled"})
    done = plan(snapshot(off, ready(0, spec=off, worker=worker(artifact=None, start_mode=StartMode.COLD))))
    assert condition(done.status, "CheckpointReady") == ("False", "Disabled")
    assert not done.create_checkpoints


def test_the_message_says_what_to_do_next() -> None:
    done = plan(snapshot(spec(), ready(0, worker=failed_creator())))
    assert "CriuDumpFailed" in str(done.status) and "vernal-worker doctor" in str(done.status)


def test_quarantine_shows_in_the_pool() -> None:
    first = plan(snapshot(spec(), ready(0, worker=creator())))
    tired = published(
        first.create_checkpoints[0],
        conditions=[{"type": "Ready", "status": "False"}, {"type": "Quarantined", "status": "True"}],
    )
    done = plan(snapshot(spec(), ready(0, worker=creator()), checkpoints=(tired,)))
    assert condition(done.status, "CheckpointReady") == ("False", "Quarantined")


def test_a_failed_thaw_degrades_the_pool_until_there_is_another_checkpoint() -> None:
    first = plan(snapshot(spec(), ready(0, worker=creator())))
    view = published(first.create_checkpoints[0])
    cold = worker(
        "p-1", start_mode=StartMode.COLD, start_reason="DigestMismatch", restore_failures=[FAILURE], artifact=None
    )
    pods = (ready(0, worker=creator()), ready(1, worker=cold))
    done = plan(snapshot(spec(replicas=2), *pods, checkpoints=(view,)))
    assert condition(done.status, "Degraded") == ("True", "ThawFailed")
    assert done.status is not None
    assert (done.status["restoredReplicas"], done.status["coldStartedReplicas"]) == (0, 2)
    [event] = [e for e in done.events if e.reason == "DigestMismatch" and e.type == "Warning" and "/thaw/" in e.key]
    assert "pages-1.img" in event.message and "vernal-worker verify" in event.message
    renewed = replace(view, status=view.status | {"generation": "g2"})
    later = plan(snapshot(spec(replicas=2), *pods, checkpoints=(renewed,)))
    assert condition(later.status, "Degraded") == ("False", "AsExpected")


def test_events_are_said_once_and_not_again_by_an_operator_that_starts_anew() -> None:
    first = plan(snapshot(spec(), ready(0)))
    starts = [e for e in first.events if "/start/" in e.key]
    assert [e.reason for e in starts] == ["Restored"]
    again = plan(snapshot(spec(), ready(0), announced=frozenset(e.key for e in first.events)))
    assert not again.events
    much_later = plan(replace(snapshot(spec(), ready(0), status=first.status), now=NOW + 3600))
    assert not [e for e in much_later.events if "/start/" in e.key]


def test_counts_are_kept_until_every_ready_worker_was_asked_once() -> None:
    status = plan(snapshot(spec(replicas=2), ready(0), ready(1))).status
    assert status is not None and status["restoredReplicas"] == 2
    unasked = tuple(replace(p, worker=None, answered_at=None, polled_at=None) for p in (ready(0), ready(1)))
    done = plan(snapshot(spec(replicas=2), *unasked, status=status))
    assert done.poll == {p.name for p in unasked}
    assert done.status is None or done.status["restoredReplicas"] == 2


def test_the_newer_generation_wins_in_the_reference_when_the_checkpoint_does_not_say() -> None:
    done = plan(snapshot(spec(), ready(0, worker=creator(artifact=artifact("g7")))))
    assert done.status is not None and done.status["checkpoint"]["generation"] == "g7"


def test_transition_times_change_with_status_only() -> None:
    first = plan(snapshot(spec(replicas=2), starting(0), starting(1)))
    assert first.status is not None
    later = replace(snapshot(spec(replicas=2), ready(0), starting(1), status=first.status), now=NOW + 60)
    second = plan(later)
    assert second.status is not None
    assert condition(second.status, "Ready") == ("False", "TooFewReady")
    times = [{c["type"]: c["lastTransitionTime"] for c in s["conditions"]} for s in (first.status, second.status)]
    assert times[0]["Ready"] == times[1]["Ready"] == "2027-01-15T08:00:00Z"
    assert times[1]["CheckpointReady"] == "2027-01-15T08:01:00Z"
    assert plan(replace(later, pool=pool(spec(replicas=2), status=second.status))).status is None


@pytest.mark.parametrize("odd", [5, "text", {"name": "x"}, [None, 5, {"name": 5}]])
def test_pull_secrets_that_are_none_are_left_out(odd: Any) -> None:
    wanted = spec(podTemplate={"spec": {"imagePullSecrets": odd}})
    (manifest,) = plan(snapshot(wanted, ready(0, revision=revision(wanted), worker=creator()))).create_checkpoints
    assert manifest["spec"]["imagePullSecrets"] == []
