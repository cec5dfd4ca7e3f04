"""Whatever a worker answers, what is written because of it is what the CRD's schema takes.

A status that the API server refuses is refused for ever: the pool then seems to stand still.
"""

from dataclasses import replace
from typing import Any

import msgspec
import pytest
from fuzz.profile import PROFILE
from hypothesis import given
from hypothesis import strategies as st
from plan.factory import IDENTITY, NOW, creator, published, ready, snapshot, spec, starting, worker
from plan.test_proving import DEADLINE, rolling
from plan.test_renewal import settled, then
from plan.test_retention import seen, use
from vernal_contract.state import FreezeOutcome, Phase, StartMode, WorkerState, encode
from vernal_operator.act.events import body
from vernal_operator.api.common import Model
from vernal_operator.api.status import VLLMCheckpointStatus, VLLMWorkerPoolStatus
from vernal_operator.kinds import POOLS, Key
from vernal_operator.observe.answers import Reader
from vernal_operator.plan import plan, plan_checkpoint
from vernal_operator.plan.model import Event
from vernal_operator.plan.renewal import Renewal

TEXTS = st.sampled_from(["", "g1", "x" * 129, "ü" * 40_000, "a b!", "/", ",", "ends:", "\n\0"]) | st.text(max_size=5)
NUMBERS = st.sampled_from([0, 1, 2**53, 2**63 - 1])
SECONDS = st.sampled_from([-1e10, 0.0, 0.5, 1e10])
FAILURE = st.fixed_dictionaries({"generation": TEXTS, "stage": TEXTS, "reason": TEXTS, "message": TEXTS})
ARTIFACT = st.fixed_dictionaries(
    {
        "identity": st.just(IDENTITY),
        "generation": TEXTS,
        "hostTuple": TEXTS,
        "bytes": NUMBERS,
        "files": NUMBERS,
        "sharedBytes": NUMBERS,
    }
)
ANSWERS = st.fixed_dictionaries(
    {},
    optional={
        **dict.fromkeys(("pod", "namespace", "pool", "revision", "startId", "startReason", "startMessage"), TEXTS),
        **dict.fromkeys(("waitingFor", "lastError"), TEXTS),
        "phase": st.sampled_from([*Phase, "Invented"]),
        "ready": st.booleans(),
        "startMode": st.sampled_from([*StartMode, "Invented"]) | st.none(),
        "artifact": st.none() | ARTIFACT,
        "freeze": st.none()
        | st.fixed_dictionaries(
            {"outcome": st.sampled_from(FreezeOutcome), "reason": TEXTS, "message": TEXTS, "seconds": SECONDS}
        ),
        "restoreFailures": st.lists(FAILURE, max_size=30),
        **dict.fromkeys(("timings", "begun"), st.dictionaries(TEXTS, SECONDS, max_size=30)),
        "uptime": SECONDS,
    },
)


def read(fields: dict[str, Any], base: WorkerState | None = None) -> WorkerState:
    document = msgspec.to_builtins(base or creator()) | fields
    return Reader().read(msgspec.json.encode(document), lambda _: None)


def assert_taken(status: dict[str, Any] | None, model: type[Model]) -> None:
    """By the models that the CRD is made of; nothing is left out of what is written."""
    if status is not None:
        taken = model.model_validate(status).model_dump(by_alias=True, exclude_unset=True)
        assert taken.keys() == status.keys()


def assert_posted(events: tuple[Event, ...]) -> None:
    for event in events:
        made = body(Key(POOLS, "ns", "p"), "u", event)
        assert len(made["reason"]) <= 128 and len(made["note"].encode()) <= 1024


@PROFILE
@given(ANSWERS)
def test_the_status_is_one_that_the_schema_takes(fields: dict[str, Any]) -> None:
    state = read(fields)
    renewing, _ = then(settled())
    late = rolling(starting(0, spec=spec(image="worker:bad"), worker=state), since=NOW - DEADLINE - 1)
    for pool in (
        snapshot(spec(), ready(0, worker=state), starting(1, worker=state)),
        replace(renewing, pods=(*renewing.pods, ready(2, worker=state, renew="now"))),
        late,
    ):
        done = plan(pool)
        assert_taken(done.status, VLLMWorkerPoolStatus)
        assert_posted(done.events)
        for manifest in done.create_checkpoints:
            found = plan_checkpoint(replace(seen(use(state)), checkpoint=published(manifest)))
            assert_taken(found.status, VLLMCheckpointStatus)
    found = plan_checkpoint(seen(use(state), use(read(fields, worker()), "b")))
    assert_taken(found.status, VLLMCheckpointStatus)
    assert_posted(found.events)


def test_a_renewal_by_a_generation_without_end() -> None:
    long = read({"artifact": msgspec.to_builtins(creator().artifact) | {"generation": "g" * 40_000}})
    snap, _ = then(settled())
    done = plan(replace(snap, pods=(*snap.pods, ready(2, worker=long, renew="now"))))
    assert done.status is not None and done.status["renewal"]["outcome"] == "Renewed"
    assert_taken(done.status, VLLMWorkerPoolStatus)


def test_messages_are_cut_whoever_wrote_them() -> None:
    assert len(Renewal("now", (), "Failed", "x" * 40_000).status()["message"]) == 4096
    late = rolling(
        starting(0, spec=spec(image="worker:bad"), scheduled=False, running=False, unschedulable="x" * 40_000),
        since=NOW - DEADLINE - 1,
    )
    status = plan(late).status
    assert status is not None and len(status["rejected"]["message"]) == 4096
    assert_taken(status, VLLMWorkerPoolStatus)


@pytest.mark.parametrize("field", ["startId", "pod", "waitingFor"])
def test_a_start_without_end_is_kept_short(field: str) -> None:
    state = read({field: "x" * 40_000})
    assert len(encode(state)) < 4000
    status = plan_checkpoint(seen(use(state))).status
    assert status is not None and all(len(entry) < 200 for entry in status["counted"])
