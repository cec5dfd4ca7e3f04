"""What killed workers and broken nodes leave does not grow."""

import os
import time
from pathlib import Path
from typing import Any

from patience import GUARD_SECONDS
from vernal_contract.reasons import Reason
from vernal_worker.bucket.keys import FAILURES
from vernal_worker.bucket.objects import Objects
from vernal_worker.bucket.store import BucketStore
from vernal_worker.store.lease import Owner
from vernal_worker.store.store import Store


def test_what_a_killed_freeze_left_makes_room_for_the_next(tmp_path: Path, identity: Any, host: Any) -> None:
    objects, root = Objects("memory:///"), tmp_path / "emptydir"
    root.mkdir()
    for container in range(3):
        store = BucketStore(root, objects, patience=GUARD_SECONDS)
        assert store.open(identity, host, Owner(pod="p")).reason is Reason.NO_ARTIFACT
        staging = store.stage(identity, host)
        left = [path for path in (root / "staging").iterdir() if path != staging.dir]
        assert not left, f"container {container}: {len(left)} half checkpoints of containers before it are on the disk"
        (staging.dir / "weights").write_bytes(b"w" * 100_000)  # and here it is killed (OOM, a probe, the node's reboot)
        for path in [*staging.dir.rglob("*"), staging.dir]:
            os.utime(path, (time.time() - 60,) * 2)  # a cold start lies between


def fail(store: Store, identity: Any, host: Any, generation: str, reason: Reason, worker: str) -> Any:
    return store.record_failure(
        identity, host, generation, stage="s", reason=reason, message="m", worker=worker, node="n1"
    )


def test_a_node_that_fails_for_ever_says_so_once(tmp_path: Path, identity: Any, host: Any) -> None:
    """Each start reads all that was written: 1000 files of a claim, 100 objects of a bucket one after the other."""
    objects = Objects("memory:///")
    for name in ("claim", "disk"):
        (tmp_path / name).mkdir()
    stores = [Store(tmp_path / "claim"), BucketStore(tmp_path / "disk", objects, patience=GUARD_SECONDS)]
    for store in stores:
        staging = store.stage(identity, host)
        (staging.dir / "oracle.json").write_text("{}")
        generation = store.publish(staging, created_by="t").artifact.generation
        for number in range(300):  # pods that the autoscaler makes, on the node with the old CRIU
            assert fail(store, identity, host, generation, Reason.CRIU_RESTORE_FAILED, f"w{number}") is None
        for number in range(3):
            given_up = fail(store, identity, host, generation, Reason.DIGEST_MISMATCH, f"v{number}")
        assert given_up is not None, "1 node and 3 times damage: more than restoreAttempts"
    there = list((tmp_path / "claim").rglob("failures/*/*.json"))
    assert len(there) <= 4 and len(objects.list(FAILURES, "gc")) <= 5, (len(there), len(objects.list(FAILURES, "gc")))
