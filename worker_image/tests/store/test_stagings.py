"""Whose half checkpoint goes, and whose stays."""

import os
import threading
import time
from typing import Any

import pytest
from patience import GUARD_SECONDS
from vernal_worker.store import collect, pieces
from vernal_worker.store import staging as stagings
from vernal_worker.store.lease import Owner
from vernal_worker.store.store import GRACE, Store


def test_what_killed_freezes_left_on_a_claim_goes_with_the_next(
    store: Store, identity: Any, host: Any, filled: Any
) -> None:
    """No VLLMCheckpoint goes, so no janitor comes: the claim fills, and nobody freezes any more (StoreFull)."""
    for _ in range(3):  # containers that were killed while they froze, hours ago
        left = filled(store.stage(identity, host))
        for path in [left.dir, *left.dir.rglob("*")]:
            os.utime(path, (time.time() - 2 * GRACE,) * 2)
    with store.lease(identity, host, Owner(pod="next")).try_acquire() as lease:  # type: ignore[union-attr]
        filled(store.stage(identity, host)).publish(created_by="next", lease=lease)
    assert not list((store.root / "staging").iterdir())


def test_what_takes_long_to_remove_keeps_no_freeze(
    store: Store, identity: Any, host: Any, filled: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Hundreds of GB on slow storage: that goes on beside it."""
    left = filled(store.stage(identity, host))
    for path in [left.dir, *left.dir.rglob("*")]:
        os.utime(path, (time.time() - 2 * GRACE,) * 2)
    held = threading.Event()
    monkeypatch.setattr(collect, "delete", lambda *_: held.wait(GUARD_SECONDS))
    try:
        assert Store(store.root, patience=0.5).stage(identity, host).dir.exists()
    finally:
        held.set()


def test_a_staging_that_is_hashed_for_hours_is_not_collected(
    store: Store, identity: Any, host: Any, filled: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its files are written, and now only read: 700 GB at 100 MB/s. Meanwhile a janitor comes, for whatever else."""
    monkeypatch.setattr(stagings, "_SIGN_SECONDS", 0.0)

    def slowly(directory: Any, *arguments: Any, **options: Any) -> None:
        for path in [directory, *directory.rglob("*")]:
            os.utime(path, (time.time() - GRACE - 60,) * 2)
        options["tick"](0)  # as it comes every 50 ms
        store.gc()
        pieces.hash_all(directory, *arguments, **options)

    monkeypatch.setattr(stagings, "hash_all", slowly)
    with store.lease(identity, host, Owner(pod="p")).try_acquire() as lease:  # type: ignore[union-attr]
        staging = filled(store.stage(identity, host))
        staging.publish(created_by="p", lease=lease).artifact.verify()
