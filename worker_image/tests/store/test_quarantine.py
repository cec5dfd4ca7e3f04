"""What speaks against an artifact, when it is given up, when another is made, and what is forgiven."""

import os
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from vernal_contract.reasons import NEXT_STEP, About, Reason, about
from vernal_worker.store import quarantine
from vernal_worker.store.failures import Failure
from vernal_worker.store.layout import Key
from vernal_worker.store.quarantine import FIRST_DELAY, LONGEST_DELAY, counted, delay
from vernal_worker.store.store import Store

OF_THE_ARTIFACT = Reason.DIGEST_MISMATCH
OF_THE_NODE = Reason.CRIU_RESTORE_FAILED


def failure(reason: Reason, node: str = "n1") -> Failure:
    return Failure(stage="s", reason=reason, message="m", worker="w", node=node, time="2026-01-01T00:00:00+00:00")


def fail(store: Store, identity: Any, host: Any, generation: str, reason: Reason, node: str = "n1") -> Any:
    return store.record_failure(
        identity, host, generation, stage="s", reason=reason, message="m", worker="w", node=node
    )


def publish(store: Store, identity: Any, host: Any, filled: Any, seed: int = 0) -> str:
    generation: str = filled(store.stage(identity, host), seed=seed).publish(created_by="a").artifact.generation
    return generation


def test_the_table() -> None:
    """Whoever adds a reason decides here what it speaks against."""
    against = {kind: {reason for reason in NEXT_STEP if about(reason) is kind} for kind in About}
    assert against[About.ARTIFACT] == {
        Reason.MANIFEST_MISSING,
        Reason.MANIFEST_INVALID,
        Reason.FILE_MISSING,
        Reason.FILE_SIZE_MISMATCH,
        Reason.DIGEST_MISMATCH,
        Reason.CANARY_MISMATCH,
    }
    assert against[About.STORAGE] == {reason for reason in Reason if reason.value.startswith(("Store", "ObjectStore"))}
    assert against[About.GPU] == {Reason.GPU_MEMORY_INSUFFICIENT}
    assert {Reason.CRIU_RESTORE_FAILED, Reason.CUDA_RESTORE_FAILED, Reason.THAW_TIMEOUT} <= against[About.NODE]


@given(st.lists(st.builds(failure, st.sampled_from(Reason), st.sampled_from(["n1", "n2", "n3"]))))
def test_what_counts(failures: list[Failure]) -> None:
    kinds = [about(each.reason) for each in failures]
    count = counted(failures)
    assert count >= kinds.count(About.ARTIFACT)
    assert count <= kinds.count(About.ARTIFACT) + min(3, kinds.count(About.NODE))
    innocent = [each for each in failures if about(each.reason) in (About.STORAGE, About.GPU, About.WORKER)]
    assert counted(innocent) == 0
    assert counted([each for each in failures if each not in innocent]) == count


@pytest.mark.parametrize("garbage", [b"", b'{"stage":"\xff"}', b"[" * 100_000], ids=["empty", "no UTF-8", "no end"])
def test_records_that_cannot_be_read_are_passed_over(
    garbage: bytes, store: Any, identity: Any, host: Any, filled: Any
) -> None:
    """One bad file on shared storage must not keep every worker from starting."""
    generation = publish(store, identity, host, filled)
    fail(store, identity, host, generation, OF_THE_ARTIFACT)
    directory = Key.of(store.root, identity, host)
    (directory.failures(generation) / "bad.json").write_bytes(garbage)
    (directory.directory / quarantine.NAME).write_bytes(garbage)
    assert len(store.failures(identity, host, generation)) == 1
    given_up = quarantine.look(directory, generation, 1)
    assert given_up is not None and given_up.generation == generation


def test_one_storage_blip_with_three_pods_retires_nothing(store: Any, identity: Any, host: Any, filled: Any) -> None:
    generation = publish(store, identity, host, filled)
    for node in ("n1", "n2", "n3"):
        assert fail(store, identity, host, generation, Reason.STORE_UNAVAILABLE, node) is None
        assert fail(store, identity, host, generation, Reason.GPU_MEMORY_INSUFFICIENT, node) is None
    assert store.find(identity, host).artifact.generation == generation


def test_one_broken_node_retires_nothing_and_three_do(store: Any, identity: Any, host: Any, filled: Any) -> None:
    generation = publish(store, identity, host, filled)
    for _ in range(10):
        assert fail(store, identity, host, generation, OF_THE_NODE, "n1") is None
    assert fail(store, identity, host, generation, OF_THE_NODE, "n2") is None
    assert fail(store, identity, host, generation, OF_THE_NODE, "n3") is not None


def test_a_thaw_that_works_forgives(store: Any, identity: Any, host: Any, filled: Any) -> None:
    generation = publish(store, identity, host, filled)
    assert not store.find(identity, host).doubted
    for _ in range(5):
        assert fail(store, identity, host, generation, OF_THE_ARTIFACT) is None
        assert fail(store, identity, host, generation, OF_THE_ARTIFACT) is None
        assert store.find(identity, host).doubted
        store.forgive(identity, host, generation)
        assert not store.find(identity, host).doubted and store.failures(identity, host, generation) == []


def test_each_next_one_is_made_later_until_one_works(store: Any, identity: Any, host: Any, filled: Any) -> None:
    """Three failures, freeze, three failures, freeze: not for ever."""
    expected = [0.0, FIRST_DELAY, 2 * FIRST_DELAY, 4 * FIRST_DELAY]
    record = None
    for seed, seconds in enumerate(expected):
        generation = publish(store, identity, host, filled, seed)
        assert store.find(identity, host).doubted == (seed > 0)
        for _ in range(3):
            given_up = fail(store, identity, host, generation, OF_THE_ARTIFACT)
        assert given_up is not None and seconds - 120 < given_up.seconds_left <= seconds
        lookup = store.find(identity, host)
        assert lookup.reason is Reason.QUARANTINED
        if seconds:
            assert f"{seed + 1} in a row were given up, a new one is made after 20" in lookup.message
            (record,) = store.root.glob(f"artifacts/*/*/{quarantine.NAME}")
            os.utime(record, (time.time() - seconds - 1,) * 2)  # the time has come, by the storage's clock
            assert store.find(identity, host).seconds_left == 0.0
    generation = publish(store, identity, host, filled, 99)
    store.forgive(identity, host, generation)
    assert record is not None and not record.exists()
    for _ in range(3):
        given_up = fail(store, identity, host, generation, OF_THE_ARTIFACT)
    assert given_up is not None and given_up.seconds_left == 0.0, "it begins anew"


@pytest.mark.parametrize("rounds", [1, 2, 9, 10, 1000])
def test_delays_grow_and_end(rounds: int) -> None:
    assert 0.0 <= delay(rounds) <= delay(rounds + 1) <= LONGEST_DELAY
    assert delay(1000) == LONGEST_DELAY


@given(st.floats(0.0, 1e6), st.floats(-1e8, 1e8))
def test_what_is_left_of_a_delay_is_no_longer_than_it(delay: float, age: float) -> None:
    """Also where the storage's clock was set back."""
    left = quarantine.remaining(delay, age)
    assert 0.0 <= left <= delay
    assert left == (delay - age if 0 < age < delay else delay if age <= 0 else 0.0)
