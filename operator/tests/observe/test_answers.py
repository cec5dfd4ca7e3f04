"""What is believed of a worker's answer: its identity only with what it consists of, and nothing that grows."""

import tracemalloc
from typing import Any

import msgspec
import pytest
from fuzz.documents import nested
from plan.factory import HOST_TUPLE, IDENTITY, creator, worker
from vernal_contract.state import ArtifactRef, FreezeOutcome, FreezeReport, RestoreFailure, encode
from vernal_operator.observe.answers import LONGEST, LONGEST_WORD, MAX_BYTES, MOST, Reader

OTHER = "f" * 64


def read(state: Any, reader: Reader | None = None) -> tuple[Any, list[str]]:
    doubts: list[str] = []
    return (reader or Reader()).read(encode(state), doubts.append), doubts


def test_an_honest_worker_is_believed() -> None:
    state, doubts = read(creator())
    assert not doubts and state == creator()


@pytest.mark.parametrize(
    "lie",
    [
        {"identity": OTHER, "artifact": None},
        {"host_tuple": OTHER},
        {"identity": OTHER, "identity_inputs": None},
        {"host_tuple": OTHER, "host": None},
        {"artifact": ArtifactRef(identity=OTHER, generation="g1", host_tuple=HOST_TUPLE, bytes=1, files=1)},
    ],
)
def test_who_claims_another_pools_identity_counts_for_no_checkpoint(lie: dict[str, Any]) -> None:
    """Else one worker could have another pool's checkpoint quarantined, or take its name."""
    failure = RestoreFailure(generation="g1", stage="criu", reason="CriuRestoreFailed", message="no")
    state, doubts = read(worker(restore_failures=[failure], **lie))
    assert len(doubts) == 1
    assert (state.identity, state.host_tuple, state.artifact, state.restore_failures) == (None, None, None, [])
    assert state.ready, "what it says about itself is its own business"


def test_what_a_newer_worker_adds_to_its_inputs_is_part_of_its_identity() -> None:
    raw = msgspec.json.decode(encode(creator()))
    raw["invented"] = 1
    doubts: list[str] = []
    assert Reader().read(msgspec.json.encode(raw), doubts.append).identity == IDENTITY and not doubts


def test_long_texts_and_lists_are_cut() -> None:
    failures = [RestoreFailure(generation="g", stage="s", reason="r", message=f"{n}" * 2000) for n in range(9)] * 9
    report = FreezeReport(outcome=FreezeOutcome.FAILED, reason="x" * 5000, message="y" * 40000)
    timings = {f"phase{n}": float(n) for n in range(100)}
    begun = dict.fromkeys([*timings, "no phase"], 1.0)
    state, _ = read(
        creator(
            restore_failures=failures,
            freeze=report,
            timings=timings,
            begun=begun,
            last_error="z" * 5000,
            start_message="s" * 5000,
        )
    )
    assert len(state.restore_failures) == MOST and state.restore_failures[-1].message.startswith("8")
    texts = [state.freeze.message, state.last_error, state.start_message]
    assert {len(text) for text in [*texts, *(f.message for f in state.restore_failures)]} == {LONGEST}
    assert len(state.freeze.reason) == LONGEST_WORD
    assert len(state.timings) == MOST and "phase99" in state.timings
    assert state.begun.keys() == state.timings.keys()


def test_equal_identities_are_kept_once() -> None:
    reader = Reader()
    first, second = read(creator(), reader)[0], read(worker(), reader)[0]
    assert first.identity_inputs is second.identity_inputs and first.host is second.host


def test_the_largest_answer_that_is_read_leaves_little() -> None:
    """A million bytes of JSON became 25 MB of objects; twenty such pods ended the operator."""
    inputs = msgspec.json.decode(encode(creator()))
    inputs["timings"] = {f"{n:x}": 0.1 for n in range(MAX_BYTES // 12)}
    data = msgspec.json.encode(inputs)
    assert MAX_BYTES * 3 // 4 < len(data) <= MAX_BYTES
    tracemalloc.start()
    try:
        kept = [Reader().read(data, print) for _ in range(20)]
        assert tracemalloc.get_traced_memory()[0] < 20 * 64 * 1024
    finally:
        tracemalloc.stop()
    assert len(kept) == 20


def answer(**fields: Any) -> bytes:
    return msgspec.json.encode({**msgspec.to_builtins(creator()), **fields})


WRONG: dict[str, Any] = {
    "lists without end": answer(invented="?").replace(b'"?"', b"[" * 30_000 + b"]" * 30_000),
    "text that is no UTF-8": answer(lastError="?").replace(b"?", b"\xff"),
    "a start before the world's": answer(uptime=2**53),
    "a start after its end": answer(uptime=-1e308),
    "more bytes than a number has": answer(artifact={**msgspec.to_builtins(creator().artifact), "bytes": 2**63}),
    "requests of less than none": answer(inFlight=-1),
}


@pytest.mark.parametrize("data", WRONG.values(), ids=WRONG)
def test_what_no_worker_says_is_no_answer(data: bytes) -> None:
    with pytest.raises(msgspec.DecodeError):
        Reader().read(data, lambda _: None)


def test_inputs_that_nobody_could_compare_are_no_answer() -> None:
    """Python can just read them."""
    inputs = {**msgspec.to_builtins(creator().identity_inputs), "engineArgs": {"x": nested(300)}}
    with pytest.raises(msgspec.DecodeError, match="nested deeper than 64 levels"):
        Reader().read(answer(identityInputs=inputs, identity=None), lambda _: None)
