"""What is believed of a worker's answer: that it is what its pool made, and not what a neighbour's is."""

import logging
from collections.abc import Iterator
from dataclasses import replace
from typing import Any, cast

import msgspec
import pytest
from plan.factory import HOST_TUPLE, INPUTS, creator, failed_creator, kept, ready, snapshot, spec, worker
from vernal_contract.identity import digest
from vernal_contract.state import ArtifactRef, RestoreFailure, WorkerState
from vernal_operator.api.pool import VLLMWorkerPoolSpec
from vernal_operator.client import Client
from vernal_operator.kinds import CHECKPOINTS, PODS, POOLS, REVISIONS, Key
from vernal_operator.observe.observer import Observer
from vernal_operator.observe.references import References
from vernal_operator.observe.snapshot import checkpoint_snapshot, pool_snapshot
from vernal_operator.observe.workers import Answer, Workers
from vernal_operator.plan import plan
from vernal_operator.plan.model import CheckpointSnapshot, PodView
from vernal_operator.plan.revision import revision
from vernal_operator.settings import Settings

NOW = 1_800_000_000.0
SPEC = spec(engineArgs={"seed": 0})
OTHER_SPECS: dict[str, dict[str, Any]] = {
    "another model": {"model": {"name": "n"}},
    "another argument": {"engineArgs": {"seed": 1}},
    "an argument more": {"engineArgs": {"seed": 0, "max_model_len": 9}},
    "none of the arguments": {"engineArgs": {}},
    "another variable": {"env": [{"name": "VLLM_X", "value": "1"}]},
    "a key": {"checkpoint": {"storage": {"claimName": "store"}, "signingKey": {"name": "s", "key": "k"}}},
    "no checkpoints": {"checkpoint": {"policy": "Disabled"}},
}


class World:
    """A namespace with two pools."""

    def __init__(self) -> None:
        self.workers = Workers()
        self.observer = Observer(cast(Client, None), Settings(), lambda *_: None)
        self.references = References(self.observer, self.workers)

    def pool(self, name: str, wanted: VLLMWorkerPoolSpec, *, revisions: bool = True) -> None:
        meta = {"name": name, "namespace": "ns", "uid": f"{name}-uid", "resourceVersion": "5"}
        self.observer.wrote(POOLS, {"metadata": meta, "spec": wanted.model_dump(mode="json", by_alias=True)})
        if revisions:
            self.keep(name, wanted)

    def keep(self, name: str, wanted: VLLMWorkerPoolSpec) -> None:
        view, rev = kept(wanted), revision(wanted)
        meta = {"name": f"{name}-{rev}", "namespace": "ns", "uid": f"{name}-{rev}", "resourceVersion": "5"}
        labels = {"vernal.dev/pool": name, "vernal.dev/revision": rev}
        owner = {"name": name, "uid": f"{name}-uid", "controller": True}
        self.observer.wrote(
            REVISIONS,
            {
                "metadata": meta | {"labels": labels, "ownerReferences": [owner]},
                "data": {"spec": view.spec, "config": view.config},
                "revision": 1,
            },
        )

    def pod(self, pool: str, rev: str, state: WorkerState, name: str = "0") -> None:
        uid = f"{pool}-{name}"
        meta: dict[str, Any] = {"name": uid, "namespace": "ns", "uid": uid, "resourceVersion": "5"}
        meta["ownerReferences"] = [{"name": pool, "uid": f"{pool}-uid", "controller": True}]
        meta["labels"] = {"vernal.dev/pool": pool, "vernal.dev/revision": rev, "vernal.dev/slot": "0"}
        running = {"running": {"startedAt": "2027-01-15T07:00:00Z"}}
        statuses = [{"name": "worker", "state": running, "restartCount": 0}]
        self.observer.wrote(PODS, {"metadata": meta, "status": {"phase": "Running", "containerStatuses": statuses}})
        self.workers._answers[uid] = Answer(0, NOW, state, NOW)

    def checkpoint(self) -> None:
        [manifest] = plan(snapshot(SPEC, heard(creator()))).create_checkpoints
        meta = {"name": "one", "namespace": "ns", "uid": "one", "resourceVersion": "5"}
        self.observer.wrote(CHECKPOINTS, manifest | {"metadata": meta, "status": {"generation": "g1"}})

    def seen(self) -> CheckpointSnapshot:
        key = Key(CHECKPOINTS, "ns", "one")
        found = checkpoint_snapshot(self.observer, self.references, cast(Client, None), key, NOW, frozenset())
        assert found is not None
        return found

    def pods(self, pool: str) -> tuple[PodView, ...]:
        found = pool_snapshot(self.observer, self.references.beliefs, Key(POOLS, "ns", pool), NOW, frozenset())
        assert found is not None
        return found.pods


def heard(state: WorkerState) -> PodView:
    return ready(0, worker=state, revision=revision(SPEC))


def failing(**fields: Any) -> WorkerState:
    failure = RestoreFailure(generation="g1", stage="verify", reason="DigestMismatch", message="no")
    return worker(artifact=None, restore_failures=[failure], **fields)


@pytest.fixture
def world() -> Iterator[World]:
    world = World()
    world.pool("p", SPEC)
    world.checkpoint()
    yield world
    world.workers.close()


def test_a_worker_that_is_what_its_pool_made_is_believed(world: World) -> None:
    world.pod("p", revision(SPEC), creator())
    assert [use.worker for use in world.seen().workers] == [creator()]
    assert [(pod.worker, pod.doubt) for pod in world.pods("p")] == [(creator(), "")]


@pytest.mark.parametrize("other", OTHER_SPECS)
def test_who_repeats_a_neighbours_inputs_counts_for_nothing(
    world: World, other: str, caplog: pytest.LogCaptureFixture
) -> None:
    """They stand in each VLLMCheckpoint of the namespace."""
    wanted = spec(**({"engineArgs": {"seed": 0}} | OTHER_SPECS[other]))
    world.pool("q", wanted)
    with caplog.at_level(logging.WARNING):
        for number in range(3):
            world.pod("q", revision(wanted), failing(start_id=f"made-up-{number}"), name=str(number))
            assert not world.seen().workers
    assert [record.getMessage().split(":")[0] for record in caplog.records] == [
        "pod ns/q-0 says that it is what its pool did not make"
    ], "it is told once"
    (pod, *_) = world.pods("q")
    assert pod.worker is not None and pod.worker.identity is None and not pod.worker.restore_failures and pod.doubt
    decided = plan(snapshot(wanted, heard(failing()), pods=(pod,)))
    (event,) = [event for event in decided.events if event.reason == "AnswerDoubted"]
    assert event.type == "Warning" and pod.name in event.message and pod.doubt in event.message


def test_a_pool_on_another_claim_has_another_checkpoint(world: World) -> None:
    """Of the same identity: its files are others, and so are their faults."""
    elsewhere = spec(engineArgs={"seed": 0}, checkpoint={"storage": {"claimName": "other"}})
    world.pool("q", elsewhere)
    world.pod("q", revision(elsewhere), failing())
    assert not world.seen().workers
    (pod,) = world.pods("q")
    assert not pod.doubt, "it is what it says"


def test_a_pod_of_an_old_revision_is_what_that_was_made_of(world: World) -> None:
    old = spec(engineArgs={"seed": 7})
    inputs = msgspec.structs.replace(INPUTS, engine_args={"seed": 7})
    identity = digest(inputs)
    ref = ArtifactRef(identity=identity, generation="g1", host_tuple=HOST_TUPLE, bytes=1, files=1)
    state = creator(identity=identity, identity_inputs=inputs, artifact=ref)
    world.pod("p", revision(old), state)
    (pod,) = world.pods("p")
    assert pod.worker is not None and pod.worker.identity is None
    assert "no ControllerRevision" in pod.doubt
    world.keep("p", old)
    (pod,) = world.pods("p")
    assert pod.worker == state and not pod.doubt, "it is there now"


def test_without_a_controller_revision_the_spec_says_it(world: World) -> None:
    """A pool's first pods and its first ControllerRevision are made by the same plan."""
    wanted = spec(engineArgs={"seed": 0}, image="worker:2")
    world.pool("q", wanted, revisions=False)
    world.pod("q", revision(wanted), failed_creator())
    assert [pod.doubt for pod in world.pods("q")] == [""]


def test_a_pod_that_is_another_pools_is_not_taken_for_one_of_this(world: World) -> None:
    """A pool that was made anew under the name of one that is gone."""
    world.pod("p", revision(SPEC), creator())
    entry = world.observer.pods.get("ns", "p-0")
    assert entry is not None
    answer = world.references.beliefs.answer(replace(entry, owner="another-uid"))
    assert answer is not None and answer.worker is not None and answer.worker.identity is None
