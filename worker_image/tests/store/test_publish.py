"""A reader sees a whole artifact or none, whatever happens to the writers."""

import os
import signal
import stat
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
from vernal_contract.reasons import Reason
from vernal_contract.state import FreezeOutcome
from vernal_worker.store import layout, quarantine
from vernal_worker.store.errors import StoreError
from vernal_worker.store.lease import Owner
from vernal_worker.store.quarantine import Quarantine
from vernal_worker.store.store import Store

CALLS = {
    "open",
    "fsync",
    *(f"os.{call}" for call in ("mkdir", "chmod", "rename", "link", "symlink", "remove", "rmdir")),
}


def fail(store: Store, identity: Any, host: Any, generation: str, times: int = 3) -> Quarantine | None:
    given_up = None
    for _ in range(times):
        given_up = store.record_failure(
            identity, host, generation, stage="verify", reason=Reason.DIGEST_MISMATCH, message="no", worker="pod-1"
        )
    return given_up


def test_find_what_was_published(store: Any, identity: Any, host: Any, filled: Any) -> None:
    assert store.find(identity, host).reason == Reason.NO_ARTIFACT
    published = filled(store.stage(identity, host)).publish(created_by="pod-1", timings={"criu": 1.5})
    assert published.outcome == FreezeOutcome.PUBLISHED
    found = store.find(identity, host)
    assert (found.reason, found.artifact) == (None, published.artifact)
    assert found.artifact.manifest.timings == {"criu": 1.5}
    assert found.artifact.manifest.created_by == "pod-1"
    assert (found.artifact.path / "process" / "criu" / "pages-1.img").stat().st_size == 3000
    assert not list((store.root / "staging").iterdir())


def test_host_tuples_do_not_fight_over_one_pointer(
    store: Any, identity: Any, host: Any, other_host: Any, filled: Any
) -> None:
    first = filled(store.stage(identity, host)).publish(created_by="a").artifact
    lookup = store.find(identity, other_host)
    assert (lookup.artifact, lookup.reason) == (None, Reason.HOST_MISMATCH)
    assert "kernel: artifact has '6.18', this host has '6.12'" in lookup.message
    assert "avx2" in lookup.message
    second = filled(store.stage(identity, other_host)).publish(created_by="b").artifact
    assert store.find(identity, host).artifact == first
    assert store.find(identity, other_host).artifact == second
    assert {a.generation for a in store.candidates(identity)} == {first.generation, second.generation}


@pytest.mark.parametrize("umask", [0, 0o077, 0o777])
def test_files_are_private_whatever_the_umask(store: Any, identity: Any, host: Any, filled: Any, umask: int) -> None:
    staging = filled(store.stage(identity, host))
    (staging.dir / "process" / "process.json").chmod(0o666)
    (staging.dir / "process").chmod(0o755)
    before = os.umask(umask)
    try:
        artifact = staging.publish(created_by="test").artifact
        fail(store, identity, host, artifact.generation, 1)
        store.lease(identity, host, Owner(pod="p")).try_acquire().release()
    finally:
        os.umask(before)
    modes = {stat.S_IMODE(p.lstat().st_mode) for p in store.root.rglob("*") if p.is_dir() and not p.is_symlink()}
    assert modes == {0o700}
    modes = {stat.S_IMODE(p.lstat().st_mode) for p in store.root.rglob("*") if p.is_file() and not p.is_symlink()}
    assert modes == {0o600}


def test_second_publisher_yields(store: Any, identity: Any, host: Any, filled: Any) -> None:
    first, second = filled(store.stage(identity, host)), filled(store.stage(identity, host), seed=1)
    artifact = first.publish(created_by="a").artifact
    publication = second.publish(created_by="b")
    assert (publication.outcome, publication.artifact) == (FreezeOutcome.PUBLISHED_BY_OTHER, artifact)
    assert not second.dir.exists()


def test_many_publishers_at_once_make_one_artifact(
    store: Any, identity: Any, host: Any, filled: Any, in_children: Any, tmp_path: Path
) -> None:
    start = tmp_path / "start"
    codes = {FreezeOutcome.PUBLISHED: 10, FreezeOutcome.PUBLISHED_BY_OTHER: 11}
    for replaced in (False, True):
        if replaced:
            fail(store, identity, host, store.find(identity, host).artifact.generation)
        start.unlink(missing_ok=True)

        def publish(seed: int) -> int:
            staging = filled(store.stage(identity, host), seed=seed)
            while not start.exists():
                pass
            return codes[staging.publish(created_by=str(seed), threads=1).outcome]

        threading.Timer(0.3, start.touch).start()
        outcomes = in_children(publish, list(range(8)))
        assert set(outcomes) <= {10, 11}, outcomes
        assert outcomes.count(10) >= 1
        if not replaced:  # replacing is decided by the lease; without it the last one wins
            assert outcomes.count(10) == 1
        found = store.find(identity, host).artifact
        found.verify()
        assert not list((store.root / "staging").iterdir())


def kill_at(step: int) -> None:
    """SIGKILL to this process just before its `step`-th call that changes or syncs something on disk, in whatever
    thread (PEP 578 audit events; fsync has none)."""
    count, fsync = [0], os.fsync

    def hook(event: str, _: object = None) -> None:
        if event in CALLS:
            count[0] += 1
            if count[0] == step:
                os.kill(os.getpid(), signal.SIGKILL)

    def counted_fsync(fd: Any) -> None:
        hook("fsync")
        fsync(fd)

    os.fsync = counted_fsync
    sys.addaudithook(hook)


@pytest.mark.parametrize("situation", ["first", "broken", "quarantined"])
def test_kill_at_every_step(
    memory: Path, identity: Any, host: Any, filled: Any, in_children: Any, situation: str, say: Any
) -> None:
    def prepare(root: Path) -> Store:
        root.mkdir()
        store = Store(root)
        if situation != "first":
            old = filled(store.stage(identity, host), seed=7).publish(created_by="old", threads=1).artifact
            if situation == "broken":
                (old.path / "manifest.json").write_bytes(b"")
            else:
                fail(store, identity, host, old.generation)
        return store

    def publish(store: Store, step: int = 0) -> int:
        if step:
            kill_at(step)
        request = store.lease(identity, host, Owner(pod="p"), ttl=1000)
        with request.try_acquire() as lease:
            staging = filled(store.stage(identity, host))
            outcome = staging.publish(created_by="new", lease=lease, threads=1).outcome
        return 0 if outcome == FreezeOutcome.PUBLISHED else 1

    step, seen = 0, {"before": 0, "after": 0}
    while True:
        step += 1
        root = memory / str(step)
        store = prepare(root)
        (code,) = in_children(lambda s: publish(*s), [(store, step)])
        if code == 0:
            break
        assert code == -signal.SIGKILL, (step, code)
        assert_whole_or_absent(store, identity, host, situation, seen)
        assert_next_one_succeeds(store, identity, host, filled)
    say(f"{situation}: killed at each of {step - 1} steps of publishing: {seen}")
    assert seen["before"] > 50
    assert seen["after"] > 5


def assert_whole_or_absent(store: Store, identity: Any, host: Any, situation: str, seen: dict[str, int]) -> None:
    try:
        lookup = store.find(identity, host)
    except StoreError as e:
        assert (situation, e.reason) == ("broken", Reason.MANIFEST_INVALID)
        seen["before"] += 1
        return
    if lookup.artifact is None:
        assert lookup.reason == {"first": Reason.NO_ARTIFACT, "quarantined": Reason.QUARANTINED}[situation]
        seen["before"] += 1
    else:
        assert lookup.artifact.manifest.created_by == "new"
        lookup.artifact.verify(threads=1)
        seen["after"] += 1


def assert_next_one_succeeds(store: Store, identity: Any, host: Any, filled: Any) -> None:
    """And after a clean-up nothing is left of the one that was killed."""
    filled(store.stage(identity, host), seed=2).publish(created_by="next", threads=1)
    found = store.find(identity, host).artifact
    assert found
    found.verify(threads=1)
    for _ in range(2):  # the first run marks
        store.gc(grace=-10)
    assert list((store.root / layout.STAGING).iterdir()) == []
    left = {p.name for p in found.path.parent.iterdir()}
    assert left <= {"current", found.generation, layout.FAILURES, layout.RETIRED, quarantine.NAME}
    for directory in (layout.FAILURES, layout.RETIRED):
        assert not list((found.path.parent / directory).glob("*"))
    leases = store.root / layout.LEASES
    assert not leases.exists() or not list(leases.iterdir())


def test_something_else_than_a_file(store: Any, identity: Any, host: Any) -> None:
    staging = store.stage(identity, host)
    (staging.dir / "link").symlink_to("/etc/passwd")
    with pytest.raises(StoreError, match="link in the staging is not a regular file"):
        staging.publish(created_by="test")
    assert not staging.dir.exists()


def test_giving_up(store: Any, identity: Any, host: Any, filled: Any) -> None:
    staging, cancel = filled(store.stage(identity, host)), threading.Event()
    cancel.set()
    with pytest.raises(StoreError) as e:
        staging.publish(created_by="test", cancel=cancel)
    assert e.value.reason == Reason.FREEZE_GIVEN_UP
    assert not staging.dir.exists()
    assert store.find(identity, host).reason == Reason.NO_ARTIFACT


def test_lost_lease(store: Any, identity: Any, host: Any, filled: Any) -> None:
    lease = store.lease(identity, host, Owner(pod="a")).try_acquire()
    staging = filled(store.stage(identity, host))
    lease.release()
    with pytest.raises(StoreError) as e:
        staging.publish(created_by="test", lease=lease)
    assert e.value.reason == Reason.LEASE_LOST
    assert not staging.dir.exists()
    assert store.find(identity, host).reason == Reason.NO_ARTIFACT


def test_failures_quarantine_a_generation_and_the_next_publisher_replaces_it(
    store: Any, identity: Any, host: Any, filled: Any
) -> None:
    old = filled(store.stage(identity, host)).publish(created_by="a").artifact
    assert fail(store, identity, host, old.generation, 2) is None
    assert store.find(identity, host).artifact == old
    given_up = fail(store, identity, host, old.generation, 1)
    assert given_up is not None
    lookup = store.find(identity, host)
    assert (lookup.artifact, lookup.reason, lookup.message) == (None, Reason.QUARANTINED, given_up.message)
    assert "failed 3 times, last on pod-1: DigestMismatch in stage verify: no" in lookup.message
    new = filled(store.stage(identity, host), seed=1).publish(created_by="b")
    assert new.outcome == FreezeOutcome.PUBLISHED
    assert store.find(identity, host).artifact == new.artifact
    assert [f.worker for f in store.failures(identity, host, old.generation)] == ["pod-1"] * 3


def test_a_generation_that_is_to_be_renewed_is_replaced_and_its_successor_is_not(
    store: Any, identity: Any, host: Any, filled: Any
) -> None:
    old = filled(store.stage(identity, host)).publish(created_by="a").artifact
    asked = Store(store.root, renew=[old.generation])
    lookup = asked.find(identity, host)
    assert (lookup.artifact, lookup.reason, lookup.seconds_left) == (None, Reason.RENEWAL_ASKED, 0.0)
    assert old.generation in lookup.message
    assert store.find(identity, host).artifact == old, "for those that were not asked it is as it was"
    new = filled(asked.stage(identity, host), seed=1).publish(created_by="b")
    assert new.outcome == FreezeOutcome.PUBLISHED
    late = filled(asked.stage(identity, host), seed=2).publish(created_by="c")
    assert (late.outcome, late.artifact) == (FreezeOutcome.PUBLISHED_BY_OTHER, new.artifact), "it is renewed once"
    assert asked.find(identity, host).artifact == store.find(identity, host).artifact == new.artifact


@pytest.mark.parametrize("target", ["current", "/outside", None], ids=["a loop", "elsewhere", "a file"])
def test_a_pointer_that_leads_elsewhere_leads_nowhere(
    store: Store, identity: Any, host: Any, filled: Any, target: str | None, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Also for who lists a store: what is elsewhere is not of it, though it be a whole artifact."""
    published = filled(store.stage(identity, host)).publish(created_by="a").artifact
    outside = tmp_path_factory.mktemp("outside") / published.generation
    published.path.rename(outside)
    current = published.path.parent / "current"
    current.unlink()
    if target is None:
        current.write_bytes(b"x")
    else:
        current.symlink_to(outside if target == "/outside" else target)
    assert store.artifacts() == [] and store.candidates(identity) == []
    try:
        assert store.find(identity, host).artifact is None
    except StoreError as error:
        assert error.reason is Reason.MANIFEST_MISSING
