"""A node cache: what it gives is an artifact whole or nothing, whoever is killed, competes, writes to it or fills its
disk."""

import os
import random
import signal
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from fills import DONE, Killed, Make, content, has, in_a_child, take, used, work
from patience import GUARD_SECONDS, until
from vernal_contract.reasons import Reason
from vernal_worker.store import cached, eviction, layout
from vernal_worker.store.artifact import Artifact
from vernal_worker.store.errors import StoreError, Touch
from vernal_worker.store.node_cache import FORMAT, NodeCache
from vernal_worker.store.receiving import Disk, FromArtifact

LARGE = 1 << 40


def blob(root: Path, artifact: Artifact, file: str) -> Path:
    (entry,) = [entry for entry in artifact.manifest.files if entry.path == file]
    return root / FORMAT / layout.BLOBS / cached.name(entry)


def test_a_miss_then_what_was_read_is_there(root: Path, make: Make) -> None:
    cache, artifact = NodeCache(root, LARGE), make()
    assert not has(cache, artifact)
    filled = cache.fill(artifact)
    assert (filled.bytes, filled.evicted, filled.full) == (artifact.bytes, 0, "")
    assert has(cache, artifact) and has(NodeCache(root, LARGE), artifact)
    assert cache.fill(artifact).bytes == 0, "it has it"
    assert work(root) == []


def test_files_that_artifacts_have_in_common_are_there_once(root: Path, make: Make) -> None:
    cache, one, other = NodeCache(root, LARGE), make(1), make(2)
    cache.fill(one)
    assert cache.fill(other).bytes == other.bytes  # all but the empty file
    assert len(layout.names(root / FORMAT / layout.BLOBS)) == 2 * len(one.manifest.files) - 1
    (blob(root, one, "process/process.json")).unlink()
    assert not has(cache, one) and has(cache, other)
    assert cache.fill(one).bytes == 100, "what was missing, and no more"
    assert has(cache, one)


def test_only_its_owner_may_read(root: Path, make: Make) -> None:
    cache, artifact = NodeCache(root, LARGE), make()
    before = os.umask(0)
    try:
        cache.fill(artifact)
        view = cache.look(artifact.manifest)
    finally:
        os.umask(before)
    assert view is not None
    for path in (root / FORMAT).rglob("*"):
        assert path.lstat().st_mode & 0o077 == 0, path
    view.release()


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def test_a_poisoned_byte_is_found_and_what_is_dropped_is_filled_anew(root: Path, make: Make) -> None:
    cache, artifact = NodeCache(root, LARGE), make()
    cache.fill(artifact)
    flip(blob(root, artifact, "process/criu/pages-1.img"))
    view = cache.look(artifact.manifest)
    assert view is not None, "sizes are right"
    with view, pytest.raises(StoreError) as error:
        Artifact(view.path, artifact.manifest).verify()
    assert error.value.reason is Reason.DIGEST_MISMATCH
    cache.drop(artifact.manifest)
    assert not has(cache, artifact)
    assert cache.fill(artifact).bytes == artifact.bytes
    assert has(cache, artifact)


@pytest.mark.parametrize("change", ["longer", "shorter", "link", "directory", "gone"])
def test_what_is_no_file_of_the_right_size_is_a_miss(root: Path, make: Make, change: str, tmp_path: Path) -> None:
    cache, artifact = NodeCache(root, LARGE), make()
    cache.fill(artifact)
    file = blob(root, artifact, "process/criu/pages-1.img")
    data = file.read_bytes()
    if change in ("longer", "shorter"):
        file.write_bytes(data + b"x" if change == "longer" else data[:-1])
    else:
        file.unlink()
    if change == "link":
        (tmp_path / "secret").write_bytes(data)
        file.symlink_to(tmp_path / "secret")
    if change == "directory":
        file.mkdir()
    assert not has(cache, artifact)
    if change == "directory":
        with pytest.raises(StoreError):
            cache.fill(artifact)
        file.rmdir()
    cache.fill(artifact)
    assert has(cache, artifact)
    assert change != "link" or (tmp_path / "secret").read_bytes() == data


def test_what_was_not_used_for_longest_makes_room(root: Path, make: Make) -> None:
    one, two, three = (make(number) for number in (1, 2, 3))
    cache = NodeCache(root, take(one) + take(two) + 2 * eviction.BLOCK)
    for moment, artifact in enumerate((one, two)):
        cache.fill(artifact)
        for entry in artifact.manifest.files:  # no test waits for a clock
            os.utime(root / FORMAT / layout.BLOBS / cached.name(entry), (moment, moment))
    assert has(cache, one)
    filled = cache.fill(three)
    assert filled.bytes and filled.evicted
    assert has(cache, one) and has(cache, three) and not has(cache, two)


def test_what_is_read_stays(root: Path, make: Make) -> None:
    one, two = make(1), make(2)
    cache = NodeCache(root, take(one) + eviction.BLOCK)
    cache.fill(one)
    view = cache.look(one.manifest)
    assert view is not None
    filled = cache.fill(two)
    assert filled.full and not filled.bytes and not filled.evicted
    assert content(view.path, one) == content(one.path, one)
    view.release()
    view.release()
    assert cache.fill(two).bytes and has(cache, two) and not has(cache, one)


def test_what_is_dropped_while_it_is_read_counts_until_then(root: Path, make: Make) -> None:
    one, two = make(1), make(2)
    cache = NodeCache(root, take(one) + eviction.BLOCK)
    cache.fill(one)
    view = cache.look(one.manifest)
    assert view is not None
    cache.drop(one.manifest)
    assert cache.fill(two).full
    view.release()
    assert cache.fill(two).bytes


def test_what_does_not_fit_takes_nothing_away(root: Path, make: Make) -> None:
    small, big = make(1), make(2, 300_000)
    cache = NodeCache(root, take(small) + eviction.BLOCK)
    cache.fill(small)
    assert str(take(big)) in cache.fill(big).full
    assert has(cache, small)


def test_memory_that_the_pod_does_not_have_is_not_filled(root: Path, make: Make) -> None:
    artifact = make()
    cache = NodeCache(root, LARGE, spare=lambda: take(artifact) - 1)
    assert "memory limit" in cache.fill(artifact).full
    assert NodeCache(root, LARGE, spare=lambda: take(artifact)).fill(artifact).bytes


def test_an_artifact_that_is_damaged_does_not_get_in(root: Path, make: Make) -> None:
    cache, artifact = NodeCache(root, LARGE), make()
    flip(artifact.path / "process/criu/pages-1.img")
    with pytest.raises(StoreError) as error:
        cache.fill(artifact)
    assert error.value.reason is Reason.DIGEST_MISMATCH and "pages-1.img" in error.value.message
    assert not blob(root, artifact, "process/criu/pages-1.img").exists() and work(root) == []


def test_who_is_told_to_stop_does_not_fill(root: Path, make: Make) -> None:
    cancel, artifact = threading.Event(), make()
    cancel.set()
    with pytest.raises(StoreError) as error:
        NodeCache(root, LARGE, cancel=cancel).fill(artifact)
    assert error.value.reason is Reason.THAW_GIVEN_UP


def test_one_fills_at_a_time_and_the_next_finds_it_done(root: Path, make: Make) -> None:
    artifact, first, second = make(), NodeCache(root, LARGE), NodeCache(root, LARGE)
    first.fill(make(1))
    results: list[Any] = []

    def fill() -> None:
        try:
            results.append(second.fill(artifact))
        except BaseException as error:
            results.append(error)

    with first._turn("another", Disk(), lambda others: True):
        other = threading.Thread(target=fill)
        other.start()
        first._fill(artifact.manifest, FromArtifact(artifact), lambda done, total: None, Disk())
        assert not results
    other.join(GUARD_SECONDS)
    assert [result.bytes for result in results] == [0]


# --- killed anywhere ---


def test_whoever_fills_may_be_killed_anywhere(root: Path, make: Make, say: Any) -> None:
    """With something to evict. Afterwards the artifacts are there whole or not at all, and the next one fills."""
    old, new = make(1), make(2)
    limit = take(old) + eviction.BLOCK
    kills = 0
    for step in range(1, 1000):

        def fill(step: int = step) -> int:
            cache = NodeCache(root, limit)
            Killed(root, step)
            return DONE if cache.fill(new).bytes else 98

        NodeCache(root, limit).fill(old)
        code = in_a_child(fill)
        cache = NodeCache(root, limit)
        has(cache, old)
        has(cache, new)
        assert used(root) <= limit + take(new)
        cache.fill(new)
        assert has(cache, new) and used(root) <= limit and work(root) == []
        if code == DONE:
            break
        assert code == -signal.SIGKILL
        kills += 1
        cache.drop(new.manifest)
    say(f"killed at {kills} calls")
    assert kills > 20


def test_whoever_reads_may_be_killed_anywhere(root: Path, make: Make) -> None:
    one, two = make(1), make(2)
    limit = take(one) + eviction.BLOCK
    for step in range(1, 1000):

        def read(step: int = step) -> int:
            cache = NodeCache(root, limit, patience=None)  # in this thread
            Killed(root, step)
            return DONE if has(cache, one) else 98

        cache = NodeCache(root, limit)
        cache.fill(one)
        code = in_a_child(read)
        assert cache.fill(two).bytes, "a reader that is dead keeps nothing"
        assert used(root) <= limit and work(root) == []
        if code == DONE:
            assert step > 20
            return
        assert code == -signal.SIGKILL


def test_workers_of_a_node_at_once(root: Path, make: Make, in_children: Any, say: Any) -> None:
    """Each thaws what it likes and fills what it had to read elsewhere, in a cache that has room for three of six."""
    artifacts = [make(number) for number in range(6)]
    limit = 3 * (take(artifacts[0]) + eviction.BLOCK)

    def live(seed: int) -> int:
        pick, cache, hits = random.Random(seed), NodeCache(root, limit), 0
        for _ in range(25):
            artifact = pick.choice(artifacts)
            if has(cache, artifact):
                hits += 1
            else:
                cache.fill(artifact)
            if pick.random() < 0.1:
                cache.drop(artifact.manifest)
        return hits

    hits = in_children(live, list(range(6)))
    say(f"hits of 25 looks each: {hits}")
    assert all(0 <= count <= 25 for count in hits) and sum(hits) > 0, "99: one of them saw something wrong"
    NodeCache(root, limit).fill(artifacts[0])
    assert used(root) <= limit and work(root) == []


# --- a disk that does not do as it should ---


@pytest.fixture
def small(tmpfs: Callable[[str], Path]) -> Path:
    return tmpfs("size=256k")


@pytest.mark.integration
def test_a_disk_that_others_fill_is_left_to_them(small: Path, make: Make) -> None:
    one, two = make(1), make(2)
    cache = NodeCache(small, LARGE)
    cache.fill(one)
    disk = os.statvfs(small)
    (small / "ballast").write_bytes(b"x" * (disk.f_bavail - 1) * disk.f_frsize)
    filled = cache.fill(two)
    assert filled.bytes == 0 and filled.full, "less than the kept part would be free"
    assert has(cache, one)
    (small / "ballast").unlink()
    assert cache.fill(two).bytes and has(cache, two)


@pytest.mark.integration
def test_a_full_disk(small: Path, make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """Which filled up after it was looked at."""
    cache, one, two = NodeCache(small, LARGE), make(1), make(2, 200_000)
    cache.fill(one)
    monkeypatch.setattr(eviction, "allowed", lambda limit, used, free, total: limit)
    ballast = small / "ballast"
    disk = os.statvfs(small)
    ballast.write_bytes(b"x" * (disk.f_bavail - 10) * disk.f_frsize)
    with pytest.raises(StoreError) as error:
        cache.fill(two)
    assert (error.value.reason, error.value.stage) == (Reason.STORE_FULL, "cache")
    assert has(cache, one) and not has(cache, two)
    assert work(small) == []


@pytest.mark.integration
def test_a_read_only_disk(small: Path, make: Make) -> None:
    cache, artifact = NodeCache(small, LARGE), make()
    cache.fill(artifact)
    subprocess.run(["mount", "-o", "remount,ro", small], check=True)
    calls: list[Callable[[], object]] = [lambda: cache.look(artifact.manifest), lambda: cache.fill(make(1))]
    for call in calls:
        with pytest.raises(StoreError) as error:
            call()
        assert (error.value.reason, error.value.stage) == (Reason.STORE_READ_ONLY, "cache")


@pytest.fixture
def hung(tmp_path: Path) -> Iterator[Path]:
    """A mount whose server has not said a word yet (fuse(4)): every call waits. It ends with the descriptor."""
    place = tmp_path / "hung"
    place.mkdir()
    server = os.open("/dev/fuse", os.O_RDWR)
    options = f"fd={server},rootmode=40000,user_id=0,group_id=0"
    subprocess.run(["mount", "-i", "-t", "fuse", "-o", options, "nobody", place], check=True, pass_fds=[server])
    yield place
    os.close(server)
    subprocess.run(["umount", "-l", place], check=True)


@pytest.mark.integration
def test_a_disk_that_hangs_is_not_waited_for(hung: Path, make: Make) -> None:
    cache, artifact = NodeCache(hung, LARGE, patience=0.5), make()
    calls: list[Callable[[], object]] = [lambda: cache.look(artifact.manifest), lambda: cache.drop(artifact.manifest)]
    for call in calls:
        with pytest.raises(StoreError) as error:
            call()
        assert (error.value.reason, error.value.stage) == (Reason.STORE_SLOW, "cache")


@pytest.mark.integration
def test_a_disk_that_hangs_after_a_look_is_not_waited_for(root: Path, make: Make, tmp_path: Path) -> None:
    """To give a view back."""
    cache, artifact = NodeCache(root, LARGE, patience=GUARD_SECONDS), make()
    cache.fill(artifact)
    view = cache.look(artifact.manifest)
    assert view is not None
    view._touch = Touch(0.5)  # while the disk still answers, it is waited for
    server = os.open("/dev/fuse", os.O_RDWR)
    options = f"fd={server},rootmode=40000,user_id=0,group_id=0"
    subprocess.run(["mount", "-i", "-t", "fuse", "-o", options, "nobody", root], check=True, pass_fds=[server])
    try:
        view.release()
    finally:
        os.close(server)
        subprocess.run(["umount", "-l", root], check=True)
    until("the view is removed by the next who fills", lambda: cache.fill(make(1)) and work(root) == [])
