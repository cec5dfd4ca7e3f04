"""Which way a worker starts."""

from pathlib import Path

import pytest
from vernal_contract.config import CheckpointPolicy
from vernal_contract.identity import HostTuple, IdentityInputs
from vernal_contract.reasons import Reason
from vernal_worker.store.artifact import Artifact
from vernal_worker.store.errors import StoreError
from vernal_worker.store.manifest import Manifest
from vernal_worker.store.quarantine import Quarantine
from vernal_worker.store.store import Lookup
from vernal_worker.supervisor import choose
from vernal_worker.supervisor.choose import Cold, GiveUp, Thaw

AUTO, REQUIRED = CheckpointPolicy.AUTO, CheckpointPolicy.REQUIRED

INPUTS = IdentityInputs(image_id="i", engine_args={}, engine_env={}, model="m", weights="InImage", versions={})
HOST = HostTuple(architecture="x86_64", cpu_features=(), kernel="6.18")
ARTIFACT = Artifact(
    Path("/store/g7"),
    Manifest(
        generation="g7",
        identity="a" * 64,
        identity_inputs=INPUTS,
        host_tuple="b" * 64,
        host=HOST,
        files=(),
        created="2026-11-21T00:00:00Z",
        created_by="pod",
    ),
)


def test_an_artifact_that_fits_is_thawed() -> None:
    assert choose.from_lookup(Lookup(ARTIFACT)) == Thaw(ARTIFACT)


@pytest.mark.parametrize("reason", [Reason.NO_ARTIFACT, Reason.HOST_MISMATCH, Reason.QUARANTINED])
def test_without_one_that_fits_a_new_one_is_made(reason: Reason) -> None:
    assert choose.from_lookup(Lookup(None, reason, "why")) == Cold(reason, "why", freeze=True)


def test_a_store_that_does_not_work_is_not_written_to() -> None:
    error = StoreError(Reason.STORE_UNAVAILABLE, "find", "no such directory")
    assert choose.from_store_error(AUTO, error) == Cold(error.reason, error.message, freeze=False)
    assert choose.from_store_error(REQUIRED, error) == GiveUp(error.reason, error.message)


def test_a_host_that_cannot() -> None:
    assert choose.unsupported(AUTO, "no CRIU") == Cold(Reason.HOST_UNSUPPORTED, "no CRIU", freeze=False)
    assert choose.unsupported(REQUIRED, "no CRIU") == GiveUp(Reason.HOST_UNSUPPORTED, "no CRIU")


def test_disabled() -> None:
    assert choose.disabled().reason is Reason.POLICY_DISABLED and not choose.disabled().freeze


def test_after_a_failed_thaw_a_new_checkpoint_is_made_only_when_the_old_one_is_given_up() -> None:
    reason = Reason.DIGEST_MISMATCH
    now, later = Quarantine("g7", "why", 0.0), Quarantine("g7", "why", 600.0)
    assert choose.after_failed_thaw(AUTO, reason, "bit", None) == Cold(reason, "bit", freeze=False)
    assert choose.after_failed_thaw(AUTO, reason, "bit", now) == Cold(reason, "bit", freeze=True)
    assert choose.after_failed_thaw(AUTO, reason, "bit", later) == Cold(reason, "bit", freeze=False)
    assert choose.after_failed_thaw(REQUIRED, reason, "bit", now) == GiveUp(reason, "bit")


def test_while_a_new_one_may_not_be_made_yet_it_only_starts_cold() -> None:
    found = choose.from_lookup(Lookup(None, Reason.QUARANTINED, "why", 600.0))
    assert found == Cold(Reason.QUARANTINED, "why", freeze=False)


def test_an_artifact_that_was_doubted_is_known_as_such() -> None:
    assert choose.from_lookup(Lookup(ARTIFACT, doubted=True)) == Thaw(ARTIFACT, doubted=True)


def test_who_freezes() -> None:
    assert choose.must_skip_freeze(None, None, leased=True) is None
    skipped = choose.must_skip_freeze(None, "pod-1", leased=False)
    assert skipped is not None and skipped[0] is Reason.LEASE_HELD and "pod-1" in skipped[1]
    skipped = choose.must_skip_freeze("g7", None, leased=True)
    assert skipped is not None and skipped[0] is Reason.PUBLISHED_BY_OTHER and "g7" in skipped[1]
