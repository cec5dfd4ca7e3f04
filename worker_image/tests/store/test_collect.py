"""Clean-up deletes what nobody can need, and nothing else."""

import os
import time
from typing import Any

from vernal_contract.reasons import Reason
from vernal_worker.store.contents import KEPT_SECONDS, Contents, Known
from vernal_worker.store.lease import Owner

GRACE = 10_000.0  # seconds


def replace(store: Any, identity: Any, host: Any, filled: Any) -> Any:
    """A new generation in place of the current one."""
    old = store.find(identity, host).artifact
    for _ in range(3):
        store.record_failure(
            identity, host, old.generation, stage="criu", reason=Reason.DIGEST_MISMATCH, message="", worker="w"
        )
    return filled(store.stage(identity, host), seed=1).publish(created_by="b").artifact


def test_nothing_in_use_is_deleted(store: Any, identity: Any, host: Any, other_host: Any, filled: Any) -> None:
    artifact = filled(store.stage(identity, host)).publish(created_by="a").artifact
    other = filled(store.stage(identity, other_host)).publish(created_by="a").artifact
    staging = filled(store.stage(identity, host))
    lease = store.lease(identity, host, Owner(pod="a")).try_acquire()
    assert store.gc() == []
    assert store.gc() == []
    assert store.find(identity, host).artifact == artifact
    assert store.find(identity, other_host).artifact == other
    assert staging.dir.exists()
    lease.check()
    lease.release()


def test_a_reader_of_a_replaced_generation_has_time(store: Any, identity: Any, host: Any, filled: Any) -> None:
    old = filled(store.stage(identity, host)).publish(created_by="a").artifact
    new = replace(store, identity, host, filled)
    assert store.gc(grace=GRACE) == []
    old.verify()
    marker = old.path.parent / "retired" / old.generation
    os.utime(marker, (time.time() - GRACE - 1,) * 2)
    deleted = [found.path for found in store.gc(grace=GRACE)]
    assert str(old.path.relative_to(store.root)) in deleted
    assert not old.path.exists()
    assert not marker.exists()
    assert not (old.path.parent / "failures" / old.generation).exists()
    assert store.find(identity, host).artifact == new
    new.verify()


def test_unreferenced_generation_is_marked_first(store: Any, identity: Any, host: Any, filled: Any) -> None:
    """Its publisher may be about to set the pointer."""
    artifact = filled(store.stage(identity, host)).publish(created_by="a").artifact
    current = artifact.path.parent / "current"
    current.unlink()
    assert store.gc(grace=GRACE) == []
    marker = artifact.path.parent / "retired" / artifact.generation
    assert marker.exists()
    current.symlink_to(artifact.generation)
    assert store.gc(grace=GRACE) == []
    assert not marker.exists(), "current after all"
    assert store.find(identity, host).artifact == artifact


def test_stagings_die_of_silence_not_of_age(store: Any, identity: Any, host: Any, filled: Any) -> None:
    dead, slow = filled(store.stage(identity, host)), filled(store.stage(identity, host))
    long_ago = (time.time() - 10 * GRACE,) * 2
    for staging in (dead, slow):
        for path in [staging.dir, *staging.dir.rglob("*")]:
            os.utime(path, long_ago)
    with (slow.dir / "process" / "criu" / "pages-1.img").open("ab") as f:
        f.write(b"more")
    assert [found.path for found in store.gc(grace=GRACE)] == [str(dead.dir.relative_to(store.root))]
    assert slow.dir.exists()


def test_records_of_content_are_kept_for_a_season(store: Any) -> None:
    Contents(store.root).put("new", Known(content="1", samples="2"))
    Contents(store.root).put("old", Known(content="1", samples="2"))
    half = store.root / "contents" / ".half"
    half.touch()
    assert store.gc(grace=GRACE) == []
    (old,) = [path for path in half.parent.iterdir() if path == Contents(store.root)._path("old")]
    os.utime(old, (time.time() - KEPT_SECONDS - 10,) * 2)
    os.utime(half, (time.time() - GRACE - 10,) * 2)
    assert sorted(found.path for found in store.gc(grace=GRACE)) == sorted(
        f"contents/{path.name}" for path in (old, half)
    )
    assert Contents(store.root).get("new") is not None


def test_a_dry_run_says_what_a_run_does_and_changes_nothing(store: Any, identity: Any, host: Any, filled: Any) -> None:
    filled(store.stage(identity, host)).publish(created_by="a")
    replace(store, identity, host, filled)
    filled(store.stage(identity, host))
    before = sorted(store.root.rglob("*"))
    would = store.gc(grace=-10, dry=True)
    assert sorted(store.root.rglob("*")) == before
    # What it says of their age is by another moment's clock.
    assert [(found.path, found.bytes) for found in store.gc(grace=-10)] == [(one.path, one.bytes) for one in would]
    assert sum(found.bytes for found in would) > 6000
    assert not any((store.root / found.path).exists() for found in would)


def test_a_generation_that_is_read_stays_whatever_its_age(store: Any, identity: Any, host: Any, filled: Any) -> None:
    filled(store.stage(identity, host)).publish(created_by="a")
    opened = store.open(identity, host, Owner(pod="reader"))
    replace(store, identity, host, filled)
    assert [f for f in store.gc(grace=-10) if opened.artifact.generation in f.path and "readers" not in f.path] == []
    opened.artifact.verify()
    opened.reading.release()
    assert any(found.path.endswith(opened.artifact.generation) for found in store.gc(grace=-10))


def test_what_is_not_the_stores_stays(store: Any) -> None:
    """Another store may lie in any directory of this one, if claims say so."""
    for directory in ("blobs", "staging", "leases", "artifacts", f"artifacts/{'a' * 64}"):
        other = store.root / directory / "other"
        (other / "blobs").mkdir(parents=True)
        (other / "blobs" / "file").write_bytes(b"x")
    assert store.gc(grace=-10) == []
    assert len(list(store.root.rglob("file"))) == 5
