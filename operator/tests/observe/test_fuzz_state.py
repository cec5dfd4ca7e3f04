"""What a worker, which runs other people's code, answers to GET /state: it is read or is none, and whatever is believed
of it no plan fails on."""

import json
from typing import Any

import msgspec
from fuzz.documents import changed, damaged, text
from fuzz.limits import bounded
from fuzz.profile import PROFILE
from hypothesis import given
from hypothesis import strategies as st
from plan.factory import HOST, IDENTITY, INPUTS, NOW, creator, published, ready, snapshot, spec, worker
from vernal_contract.identity import digest
from vernal_contract.state import DrainReport, Load, RestoreFailure, WorkerState
from vernal_operator.observe.answers import MAX_BYTES, Reader
from vernal_operator.plan import plan, plan_checkpoint
from vernal_operator.plan.model import CheckpointSnapshot, PoolUse, WorkerUse

FAILURE = RestoreFailure(generation="g0", stage="verify", reason="DigestMismatch", message="m")
MORE: dict[str, Any] = {
    "restore_failures": [FAILURE],
    "timings": {"criu": 1.5, "total": 3.0},
    "begun": {"criu": 0.25, "total": 0.0},
    "load": Load(running=1, pressure=0.5),
    "drain": DrainReport(seconds_left=3.0, accepting=True),
    "last_error": "e",
    "start_id": "s",
    "in_flight": 3,
}
GOOD: list[Any] = [json.loads(msgspec.json.encode(state)) for state in (worker(**MORE), creator(**MORE))]


def believed(document: Any) -> Any:
    """With the digest of what it now consists of, as somebody who wants to be believed would send it."""
    try:
        document["identity"] = digest(document["identityInputs"])
        document["artifact"]["identity"] = document["identity"]
        document["hostTuple"] = digest(document["host"])
    except (TypeError, KeyError, ValueError):
        pass
    return document


documents = st.sampled_from(GOOD).flatmap(changed)
answers = documents.map(text) | documents.map(believed).map(text) | documents.map(text).flatmap(damaged)


@PROFILE
@given((answers | st.binary(max_size=300)).filter(lambda data: len(data) <= 2 * MAX_BYTES))
def test_an_answer_is_read_or_is_none_and_no_plan_fails_on_it(data: bytes) -> None:
    with bounded():
        try:
            state = Reader().read(data, lambda _: None)
        except msgspec.DecodeError:
            return
        assert isinstance(state, WorkerState)
        pool = spec()
        decisions = plan(snapshot(pool, ready(0, worker=state), ready(1)))
        manifests = [*decisions.create_checkpoints]
        if not manifests:
            (manifest,) = plan(snapshot(pool, ready(0, worker=creator()))).create_checkpoints
            manifests.append(manifest)
        assert len(json.dumps(decisions.status)) < 1 << 18
        for manifest in manifests:
            msgspec.json.encode(manifest)
            use = WorkerUse(pool="p", pod="p-0", pod_uid="u", restarts=0, worker=state, answered_at=NOW)
            done = plan_checkpoint(
                CheckpointSnapshot(
                    now=NOW,
                    checkpoint=published(manifest),
                    users=(PoolUse(name="p", restore_attempts=3, retain=False, unused_seconds=60),),
                    workers=(use,),
                )
            )
            status = done.status or {}
            assert len(json.dumps(status, allow_nan=False)) < 1 << 18
            assert all(abs(number) < 2**63 for number in status.values() if isinstance(number, int))


def test_the_good_ones_are_good() -> None:
    for document in GOOD:
        assert Reader().read(text(document), lambda _: None).identity == IDENTITY
    assert (digest(INPUTS), HOST.kernel) == (IDENTITY, "6.18")
