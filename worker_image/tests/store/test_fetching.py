"""What comes from elsewhere straight into a node cache: whole or not at all, whoever is killed, lies or competes, and
whatever becomes of the disk."""

import os
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from fills import DONE, Killed, Make, has, in_a_child, take, used, work
from patience import GUARD_SECONDS, until
from store_matrix.kernel import Thawer
from vernal_contract.reasons import Reason
from vernal_worker.store import cached, eviction, layout, node_cache
from vernal_worker.store.artifact import Artifact
from vernal_worker.store.errors import StoreError
from vernal_worker.store.node_cache import FORMAT, Fetched, NodeCache
from vernal_worker.store.pieces import Piece
from vernal_worker.store.receiving import FromArtifact

LARGE = 1 << 40


class Elsewhere(FromArtifact):
    """An artifact that is far away. `before`: called with the number of each part before it comes."""

    def __init__(self, artifact: Artifact, before: Callable[[int], object] = lambda number: None, **has: int) -> None:
        super().__init__(artifact)
        self._before, self.asked = before, 0
        self.threads, self.tries = has.get("threads", 1), has.get("tries", 1)
        self._number = 0

    def parts(self, piece: Piece, digest: str) -> Iterator[memoryview]:
        self.asked += 1
        for part in super().parts(piece, digest):
            self._number += 1
            self._before(self._number)
            yield part

    def damaged(self, piece: Piece, digest: str) -> StoreError:
        return StoreError(Reason.DIGEST_MISMATCH, "pull", f"{piece} has other bytes")


def fetched(cache: NodeCache, source: Elsewhere, artifact: Artifact, **options: Any) -> Fetched:
    """With what it gave verified, and given back."""
    done = cache.fetch(artifact.manifest, source, **options)
    if done.view is not None:
        with done.view:
            Artifact(done.view.path, artifact.manifest).verify(threads=1)
    return done


def names(root: Path) -> list[str]:
    return layout.names(root / FORMAT / layout.BLOBS)


@pytest.mark.parametrize("threads", [1, 4])
def test_what_is_nowhere_here_comes_once_and_is_found(root: Path, make: Make, threads: int) -> None:
    cache, artifact = NodeCache(root, LARGE), make()
    source = Elsewhere(artifact, threads=threads)
    told: list[tuple[int, int]] = []
    done = fetched(cache, source, artifact, on_progress=lambda done, total: told.append((done, total)))
    assert (done.filled.bytes, done.filled.evicted, done.filled.full, done.busy) == (artifact.bytes, 0, "", False)
    assert done.view is not None and source.asked == 3, "an empty file is no piece"
    assert told and {total for _, total in told} == {artifact.bytes}
    assert has(NodeCache(root, LARGE), artifact) and work(root) == []
    again = fetched(cache, source, artifact)
    assert again.view is not None and again.filled.bytes == 0 and source.asked == 3
    for path in (root / FORMAT).rglob("*"):
        assert path.lstat().st_mode & 0o077 == 0, path


def test_of_what_is_here_nothing_comes(root: Path, make: Make) -> None:
    cache, artifact = NodeCache(root, LARGE), make()
    cache.fill(artifact)
    (root / FORMAT / layout.BLOBS / cached.name(artifact.manifest.files[-1])).unlink()
    source = Elsewhere(artifact)
    assert fetched(cache, source, artifact).view is not None and source.asked == 1


def test_where_there_is_no_room_nothing_is_asked_for(root: Path, make: Make) -> None:
    small, big = make(1), make(2, 300_000)
    cache = NodeCache(root, take(small) + eviction.BLOCK)
    cache.fill(small)
    source = Elsewhere(big)
    done = fetched(cache, source, big)
    assert done.view is None and str(take(big)) in done.filled.full and not source.asked
    assert has(cache, small)


def test_the_least_recently_used_makes_room_and_what_is_read_stays(root: Path, make: Make) -> None:
    one, two, three = (make(number) for number in (1, 2, 3))
    cache = NodeCache(root, 2 * take(one) + eviction.BLOCK)
    for moment, artifact in enumerate((one, two)):
        fetched(cache, Elsewhere(artifact), artifact)
        for entry in artifact.manifest.files:  # no test waits for a clock
            os.utime(root / FORMAT / layout.BLOBS / cached.name(entry), (moment, moment))
    view = cache.look(one.manifest)
    assert view is not None
    with view:
        done = fetched(cache, Elsewhere(three), three)
    assert done.view is not None and done.filled.evicted
    assert has(cache, one) and has(cache, three) and not has(cache, two)


# --- what comes is not what it should be ---


def cut(data: memoryview) -> memoryview:
    return data[:-1]


def longer(data: memoryview) -> memoryview:
    return memoryview(bytes(data) + b"x")


def other(data: memoryview) -> memoryview:
    return memoryview(bytes(data[:-1]) + bytes([data[-1] ^ 1]))


class Lying(Elsewhere):
    """Of the big file, the first `times` times."""

    def __init__(self, artifact: Artifact, lie: Callable[[memoryview], memoryview], times: int, tries: int) -> None:
        super().__init__(artifact, tries=tries)
        self._lie, self._times = lie, times

    def parts(self, piece: Piece, digest: str) -> Iterator[memoryview]:
        lying = piece.path == "process/criu/pages-1.img" and self._times > 0
        self._times -= lying
        return (self._lie(part) if lying else part for part in super().parts(piece, digest))


@pytest.mark.parametrize("lie", [cut, longer, other])
def test_other_bytes_get_no_name(root: Path, make: Make, lie: Callable[[memoryview], memoryview]) -> None:
    cache, artifact = NodeCache(root, LARGE), make()
    with pytest.raises(StoreError) as error:
        cache.fetch(artifact.manifest, Lying(artifact, lie, times=3, tries=3))
    assert (error.value.reason, error.value.stage) == (Reason.DIGEST_MISMATCH, "pull")
    (entry,) = [entry for entry in artifact.manifest.files if entry.path == "process/criu/pages-1.img"]
    assert cached.name(entry) not in names(root) and work(root) == [] and not has(cache, artifact)
    assert fetched(cache, Lying(artifact, lie, times=2, tries=3), artifact).view is not None, "the third time is right"
    assert has(cache, artifact)


def test_what_the_source_says_is_not_the_caches(root: Path, make: Make) -> None:
    cache, artifact = NodeCache(root, LARGE), make()

    def gone(number: int) -> None:
        raise StoreError(Reason.OBJECT_STORE_UNAVAILABLE, "pull", "no answer")

    with pytest.raises(StoreError) as error:
        cache.fetch(artifact.manifest, Elsewhere(artifact, gone))
    assert error.value.stage == "pull" and work(root) == []
    assert fetched(cache, Elsewhere(artifact), artifact).view is not None


def test_who_gives_up_leaves_nothing_in_the_way(root: Path, make: Make) -> None:
    cache, artifact = NodeCache(root, LARGE), make()

    def slow(done: int, total: int) -> None:
        raise StoreError(Reason.STORE_SLOW, "pull", "too slow")

    with pytest.raises(StoreError) as error:
        cache.fetch(artifact.manifest, Elsewhere(artifact), on_progress=slow)
    assert (error.value.reason, error.value.stage) == (Reason.STORE_SLOW, "pull")
    assert fetched(cache, Elsewhere(artifact), artifact).view is not None and work(root) == []


# --- two at once ---


def test_two_that_miss_the_same_fetch_it_once(root: Path, make: Make) -> None:
    artifact, go = make(), threading.Event()
    first = Elsewhere(artifact, lambda number: go.wait(GUARD_SECONDS))
    second = Elsewhere(artifact)
    results: list[Fetched | BaseException] = []

    def fetch(source: Elsewhere) -> None:
        try:
            results.append(fetched(NodeCache(root, LARGE), source, artifact, wait=GUARD_SECONDS))
        except BaseException as error:
            results.append(error)

    threads = [threading.Thread(target=fetch, args=[first])]
    threads[0].start()
    until("the first is at it", lambda: first.asked)
    assert NodeCache(root, LARGE).fetch(artifact.manifest, second, wait=0.0).busy, "it does not wait for longer"
    other = make(1)
    done = NodeCache(root, LARGE).fetch(other.manifest, Elsewhere(other), wait=GUARD_SECONDS)
    assert done.busy and done.view is None, "who brings something else is not waited for"
    threads.append(threading.Thread(target=fetch, args=[second]))
    threads[1].start()
    go.set()
    for thread in threads:
        thread.join(GUARD_SECONDS)
    assert sorted(result.filled.bytes for result in results if isinstance(result, Fetched)) == [0, artifact.bytes]
    assert not second.asked and all(isinstance(result, Fetched) and result.view for result in results)


def test_who_waits_for_one_that_is_killed_fetches(root: Path, make: Make) -> None:
    artifact = make()
    ready, begun = os.pipe()

    def hold(number: int) -> None:
        os.write(begun, b"x")
        threading.Event().wait()

    pid = os.fork()
    if pid == 0:
        with suppress(BaseException):
            NodeCache(root, LARGE).fetch(artifact.manifest, Elsewhere(artifact, hold))
        os._exit(99)
    os.read(ready, 1)
    source, results = Elsewhere(artifact), list[Fetched]()
    cache = NodeCache(root, LARGE)
    waiting = threading.Thread(target=lambda: results.append(fetched(cache, source, artifact, wait=GUARD_SECONDS)))
    waiting.start()
    os.kill(pid, 9)
    os.waitpid(pid, 0)
    waiting.join(GUARD_SECONDS)
    assert results[0].view is not None and source.asked == 3 and work(root) == []
    for end in (ready, begun):
        os.close(end)


def test_workers_of_a_node_at_once(root: Path, make: Make, in_children: Any) -> None:
    """Who may not wait goes elsewhere; what anybody gets is right."""
    artifacts = [make(number) for number in range(4)]
    limit = 2 * take(artifacts[0]) + eviction.BLOCK

    def live(seed: int) -> int:
        cache, got = NodeCache(root, limit), 0
        for turn in range(12):
            artifact = artifacts[(seed + turn * (1 + seed % 3)) % len(artifacts)]
            if not has(cache, artifact):
                done = fetched(cache, Elsewhere(artifact, threads=2), artifact, wait=GUARD_SECONDS)
                got += done.view is not None
        return got

    assert all(0 <= count <= 12 for count in in_children(live, list(range(4)))), "99: one saw something wrong"
    fetched(NodeCache(root, limit), Elsewhere(artifacts[0]), artifacts[0])
    assert used(root) <= limit and work(root) == []


# --- killed anywhere ---


def test_whoever_fetches_may_be_killed_at_any_call_and_any_write(root: Path, make: Make, say: Any) -> None:
    """With something to evict. Afterwards the artifacts are there whole or not at all, and the next one fetches."""
    old, new = make(1), make(2)
    limit = take(old) + eviction.BLOCK
    kills = 0
    for step in range(1, 1000):

        def fetch(step: int = step) -> int:
            killed = Killed(root, step)
            source = Elsewhere(new, lambda number: killed.count())
            return DONE if fetched(NodeCache(root, limit, patience=None), source, new).filled.bytes else 98

        NodeCache(root, limit).fill(old)
        code = in_a_child(fetch)
        cache = NodeCache(root, limit)
        has(cache, old)
        has(cache, new)
        assert used(root) <= limit + take(new)
        assert fetched(cache, Elsewhere(new), new).view is not None
        assert has(cache, new) and used(root) <= limit and work(root) == []
        if code == DONE:
            break
        assert code == -9
        kills += 1
        cache.drop(new.manifest)
    say(f"killed at {kills} calls and writes")
    assert kills > 30


# --- a disk that does not do as it should ---


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """An ext4 of its own, which turns read-only at the first error, as the kernel's does by default on many nodes."""
    image, place = tmp_path / "disk.img", tmp_path / "disk"
    with image.open("wb") as file:
        file.truncate(24 << 20)
    subprocess.run(["mkfs.ext4", "-q", "-m", "0", image], check=True)
    place.mkdir()
    subprocess.run(["mount", "-o", "loop,errors=remount-ro", image, place], check=True)
    yield place
    subprocess.run(["umount", place], check=True)


def device(place: Path) -> str:
    found = place.stat().st_dev
    return Path(f"/sys/dev/block/{os.major(found)}:{os.minor(found)}").resolve().name


@pytest.mark.integration
def test_a_disk_that_turns_read_only_on_the_way(disk: Path, make: Make) -> None:
    cache, one, two = NodeCache(disk, LARGE), make(1), make(2)
    cache.fill(one)

    def fail(number: int) -> None:
        if number == 2:
            Path(f"/sys/fs/ext4/{device(disk)}/trigger_fs_error").write_text("a test")

    with pytest.raises(StoreError) as error:
        cache.fetch(two.manifest, Elsewhere(two, fail))
    assert error.value.stage == "cache"
    assert error.value.reason in (Reason.STORE_READ_ONLY, Reason.STORE_UNAVAILABLE)
    with pytest.raises(StoreError) as error:
        cache.fetch(two.manifest, Elsewhere(two))
    assert (error.value.stage, error.value.reason) == ("cache", Reason.STORE_READ_ONLY)


@pytest.mark.integration
def test_a_disk_that_is_full_on_the_way(disk: Path, make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """Which others filled after it was looked at."""
    cache, one, two = NodeCache(disk, LARGE), make(1), make(2, 8_000_000)
    cache.fill(one)
    monkeypatch.setattr(eviction, "allowed", lambda limit, used, free, total: limit)

    def others(number: int) -> None:
        if number == 2:
            with suppress(OSError), (disk / "ballast").open("wb", buffering=0) as file:
                while True:  # until it is as full as it gets
                    file.write(bytes(1 << 20))

    with pytest.raises(StoreError) as error:
        cache.fetch(two.manifest, Elsewhere(two, others))
    assert (error.value.reason, error.value.stage) == (Reason.STORE_FULL, "cache")
    assert has(cache, one) and not has(cache, two) and work(disk) == []
    (disk / "ballast").unlink()
    assert fetched(cache, Elsewhere(two), two).view is not None


@pytest.fixture
def thawer(tmp_path: Path) -> Iterator[Thawer]:
    place = tmp_path / "thawer"
    place.mkdir()
    with Thawer.start(place):
        thawer = Thawer(place)
        yield thawer
        thawer.let_go()


@pytest.mark.integration
def test_a_disk_that_hangs_on_the_way_is_not_waited_for(
    thawer: Thawer, disk: Path, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was left hanging does nothing more once it comes loose, and is not in the way."""
    cache, one = NodeCache(disk, LARGE), make(1)

    def hang(number: int) -> None:
        if number == 2:
            thawer.freeze(disk)
            monkeypatch.setattr(node_cache, "SILENT_SECONDS", 0.5)

    try:
        with pytest.raises(StoreError) as error:
            cache.fetch(one.manifest, Elsewhere(one, hang))
        assert (error.value.reason, error.value.stage) == (Reason.STORE_SLOW, "cache")
    finally:
        thawer.thaw(disk)
    monkeypatch.undo()
    until("it came loose", lambda: fetched(cache, Elsewhere(one), one, wait=GUARD_SECONDS).view)
    until("what was left is gone", lambda: work(disk) == [])
    assert has(cache, one)
