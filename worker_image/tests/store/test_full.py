"""A claim that is full, and what is left of it when it is not any more."""

import os
from pathlib import Path
from typing import Any

import pytest
from vernal_contract.reasons import Reason
from vernal_worker.store import failures, reading, usage
from vernal_worker.store.layout import Key
from vernal_worker.store.lease import Owner
from vernal_worker.store.store import Store

pytestmark = pytest.mark.integration


def ballast(root: Path) -> Path:
    path = root / "ballast"
    path.write_bytes(b"x" * (os.statvfs(root).f_bavail * 4096))
    return path


def test_who_thaws_from_a_full_claim_is_known_by_name(tmpfs: Any, identity: Any, host: Any, filled: Any) -> None:
    """Then `du` says who uses it, and orphans are told."""
    root = tmpfs("size=256k")
    filled(Store(root, user="a/claim/").stage(identity, host)).publish(created_by="a")
    full, other = ballast(root), Store(root, user="b/claim/")
    assert other.open(identity, host, Owner(pod="b")).artifact is not None
    full.unlink()  # the claim was grown
    assert other.open(identity, host, Owner(pod="b")).artifact is not None
    directory = Key.of(root, identity, host).directory
    assert sorted(reading.users(directory)) == ["a/claim/", "b/claim/"]
    reading.disuse(directory, "a/claim/")
    assert usage.orphans(root, "b/claim/", [], grace=-1.0), "nobody else uses it, and no VLLMCheckpoint is of it"


def test_looks_at_a_full_store_leave_nothing(tmpfs: Any, identity: Any, host: Any, filled: Any) -> None:
    store = Store(tmpfs("size=256k"))
    artifact = filled(store.stage(identity, host)).publish(created_by="a").artifact
    key = Key.of(store.root, identity, host)
    for _ in range(3):  # three workers failed at the same time
        failures.record(key, artifact.generation, stage="s", reason=Reason.DIGEST_MISMATCH, message="", worker="w")
    full = ballast(store.root)
    before = sorted(key.directory.iterdir())
    for _ in range(5):  # workers start
        assert store.find(identity, host).reason is Reason.QUARANTINED
    full.unlink()
    store.gc(grace=0.0)
    left = [path.name for path in key.directory.iterdir() if path not in before]
    assert not left, f"{len(left)} files that no collector knows: {left}"
