"""Workers whose pool names a bucket: what is thawed, published, leased and given up there is so for all of them."""

import shutil
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from patience import GUARD_SECONDS, until
from vernal_contract.identity import HostTuple, IdentityInputs, digest
from vernal_contract.reasons import Reason
from vernal_contract.state import FreezeOutcome, Phase, WorkerState
from vernal_worker.bucket import collect
from vernal_worker.bucket.keys import Place
from vernal_worker.bucket.lease import BucketLease
from vernal_worker.bucket.objects import Objects
from vernal_worker.bucket.store import BucketStore
from vernal_worker.store.contents import Known
from vernal_worker.store.errors import StoreError
from vernal_worker.store.lease import Owner
from vernal_worker.store.node_cache import FILLING, FORMAT, NodeCache
from vernal_worker.store.quarantine import LONGEST_DELAY
from vernal_worker.store.staging import Publication
from vernal_worker.store.store import Store
from vernal_worker.supervisor.board import Board
from vernal_worker.supervisor.caching import Caching

A, B = Owner(pod="a"), Owner(pod="b")
FILES = {"process/a.img": b"a" * 5000, "oracle.json": b"{}", "empty": b""}

Worker = Callable[..., BucketStore]


@pytest.fixture
def pod(objects: Objects, tmp_path: Path) -> Worker:
    """The store of a new pod: nothing is on its disk."""
    numbers = iter(range(1000))

    def pod(**options: Any) -> BucketStore:
        root = tmp_path / f"pod-{next(numbers)}"
        root.mkdir()
        return BucketStore(root, options.pop("objects", objects), patience=GUARD_SECONDS, **options)

    return pod


def freeze(store: Store, identity: IdentityInputs, host: HostTuple, **changed: bytes) -> Publication:
    staging = store.stage(identity, host)
    for name, data in (FILES | changed).items():
        (staging.dir / name).parent.mkdir(parents=True, exist_ok=True)
        (staging.dir / name).write_bytes(data)
    return store.publish(staging, created_by="test")


def fail(store: Store, identity: IdentityInputs, host: HostTuple | str, generation: str, node: str = "n") -> Any:
    return store.record_failure(
        identity, host, generation, stage="criu", reason=Reason.DIGEST_MISMATCH, message="m", worker="w", node=node
    )


def here(store: Store) -> list[str]:
    """Generations on a pod's disk."""
    return sorted(path.name for path in store.root.glob("artifacts/*/*/2*"))


def test_what_one_pod_published_another_thaws(pod: Worker, identity: IdentityInputs, host: HostTuple) -> None:
    creator, other = pod(), pod()
    assert creator.open(identity, host, A).reason is Reason.NO_ARTIFACT
    made = freeze(creator, identity, host)
    assert made.outcome is FreezeOutcome.PUBLISHED and other.published(identity, host) == made.artifact.generation
    found = other.open(identity, host, B)
    assert found.artifact is not None and found.reading is not None and not found.doubted
    assert found.artifact.manifest == made.artifact.manifest
    assert found.artifact.path.is_relative_to(other.root)
    found.artifact.verify()
    found.reading.release()


def test_what_is_on_disk_is_not_fetched_again_and_is_thawed_without_the_bucket(
    pod: Worker, objects: Objects, identity: IdentityInputs, host: HostTuple
) -> None:
    made = freeze(pod(), identity, host)
    fetched: list[int] = []
    store = pod(on_progress=lambda what, done, size: fetched.append(size))
    for _ in range(2):
        assert store.open(identity, host, A).artifact is not None
    assert set(fetched) == {5002}
    gone = BucketStore(store.root, Objects("s3://gone", endpoint="http://127.0.0.1:9", region="r", retry_seconds=0.0))
    found = gone.open(identity, host, A).artifact
    assert found is not None and found.generation == made.artifact.generation


def test_what_the_bucket_has_no_more_is_not_thawed(
    pod: Worker, objects: Objects, identity: IdentityInputs, host: HostTuple
) -> None:
    creator = pod()
    freeze(creator, identity, host)
    collect.remove(objects, digest(identity), digest(host))
    assert creator.open(identity, host, A).reason is Reason.NO_ARTIFACT


def test_a_newer_one_takes_the_place_of_the_one_on_disk(pod: Worker, identity: IdentityInputs, host: HostTuple) -> None:
    first = freeze(pod(), identity, host).artifact.generation
    thawing = pod()
    (found := thawing.open(identity, host, A)).reading.release()  # type: ignore[union-attr]
    assert found.artifact is not None and here(thawing) == [first]
    (thawing.root / "staging" / ("0" * 32)).mkdir(parents=True)  # of a pull that was killed
    renewing = pod(renew=[first])
    assert renewing.open(identity, host, B).reason is Reason.RENEWAL_ASKED
    second = freeze(renewing, identity, host)
    assert second.outcome is FreezeOutcome.PUBLISHED
    thawing.open(identity, host, A)
    assert here(thawing) == [second.artifact.generation] and not list((thawing.root / "staging").iterdir())


def test_of_two_that_publish_one_is_current_and_nothing_else_stays(
    pod: Worker, identity: IdentityInputs, host: HostTuple
) -> None:
    first, late = pod(), pod()
    generation = freeze(first, identity, host).artifact.generation
    done = freeze(late, identity, host)
    assert done.outcome is FreezeOutcome.PUBLISHED_BY_OTHER and done.artifact.generation == generation
    assert done.artifact.ref().bytes == 5002
    assert here(late) == []


def test_another_host(pod: Worker, identity: IdentityInputs, host: HostTuple) -> None:
    freeze(pod(), identity, host)
    unlike = msgspec.structs.replace(host, kernel="5.4")
    found = pod().open(identity, unlike, A)
    assert found.artifact is None and found.reason is Reason.HOST_MISMATCH and "kernel" in found.message
    more = msgspec.structs.replace(host, cpu_features=(*host.cpu_features, "avx512f"))
    assert pod().open(identity, more, A).artifact is not None, "it needs less than is here"
    assert freeze(pod(), identity, unlike).outcome is FreezeOutcome.PUBLISHED
    assert pod().open(identity, unlike, A).artifact is not None


# --- lease ---


def test_one_of_those_that_ask_at_once_gets_the_lease(pod: Worker, identity: IdentityInputs, host: HostTuple) -> None:
    requests = [pod().lease(identity, host, Owner(pod=str(n))) for n in range(8)]
    got: list[Any] = []
    start = threading.Barrier(len(requests))

    def ask(request: Any) -> None:
        start.wait(GUARD_SECONDS)
        got.append(request.try_acquire())

    threads = [threading.Thread(target=ask, args=[request]) for request in requests]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(GUARD_SECONDS)
    assert len(got) == len(requests), "none failed"
    (lease,) = [lease for lease in got if lease is not None]
    lease.check()
    lost = [request for request in requests if request.holder is not None]
    assert len(lost) == len(requests) - 1 and len({request.holder.pod for request in lost if request.holder}) == 1
    lease.release()
    assert lost[0].try_acquire() is not None and lost[0].holder is None


def test_a_living_holder_keeps_it_and_a_dead_one_loses_it(
    pod: Worker, objects: Objects, identity: IdentityInputs, host: HostTuple, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another looks just before the last renewal is too old, by the bucket's clock: here it depends on no machine."""
    ttl, now = 3.0, 0.0
    monkeypatch.setattr(Objects, "now", lambda self, stage: now)
    lease = pod().lease(identity, host, A, ttl=ttl).try_acquire()
    assert isinstance(lease, BucketLease)
    waiting = pod().lease(identity, host, B, ttl=ttl)
    key = Place.of(digest(identity), digest(host)).lease
    first = objects.get(key, "test")
    assert first is not None

    def renewed() -> bool:
        nonlocal now
        read = objects.get(key, "test")
        assert read is not None
        now = read.modified + ttl
        assert waiting.try_acquire() is None and waiting.holder == A
        return read.data != first.data and read.modified > first.modified

    until("a renewal", renewed)
    lease._stop.set()  # as if its process were gone
    now += 3600.0
    until("the lease of the dead", waiting.try_acquire)
    now = 0.0
    assert waiting.holder is None
    lease._stop.clear()
    with pytest.raises(StoreError) as error:
        lease.check()
    assert error.value.reason is Reason.LEASE_LOST and "b holds it now" in error.value.message
    lease.release()
    assert pod().lease(identity, host, A).try_acquire() is None, "who has lost it gives nothing back"


def test_who_has_lost_the_lease_does_not_publish(pod: Worker, identity: IdentityInputs, host: HostTuple) -> None:
    store = pod()
    lease = store.lease(identity, host, A).try_acquire()
    assert lease is not None
    lease.release()
    staging = store.stage(identity, host)
    with pytest.raises(StoreError) as error:
        store.publish(staging, created_by="test", lease=lease)
    assert error.value.reason is Reason.LEASE_LOST
    assert here(store) == [] and store.published(identity, host) is None


# --- what fails ---


def test_what_is_given_up_by_one_is_thawed_by_nobody(pod: Worker, identity: IdentityInputs, host: HostTuple) -> None:
    first = freeze(pod(), identity, host).artifact.generation
    for left in (True, False):
        assert (fail(pod(restore_attempts=2), identity, host, first) is None) == left
    assert pod().open(identity, host, A).doubted, "another pool allows more"
    found = pod(restore_attempts=2).open(identity, host, A)
    assert found.artifact is None and found.reason is Reason.QUARANTINED and found.seconds_left == 0
    assert "failed 2 times" in found.message
    second = freeze(pod(restore_attempts=2), identity, host)
    assert second.outcome is FreezeOutcome.PUBLISHED, "it takes the place of what is given up"
    found = pod(restore_attempts=2).open(identity, host, A)
    assert found.artifact is not None and found.doubted
    for _ in range(2):
        again = fail(pod(restore_attempts=2), identity, host, second.artifact.generation)
    assert again is not None and 0 < again.seconds_left <= 600, "the second in a row"
    assert pod(restore_attempts=2).open(identity, host, A).seconds_left > 0


def test_a_thaw_that_works_forgives(pod: Worker, identity: IdentityInputs, host: HostTuple) -> None:
    generation = freeze(pod(), identity, host).artifact.generation
    fail(pod(), identity, host, generation)
    store = pod()
    assert store.open(identity, host, A).doubted and len(store.failures(identity, host, generation)) == 1
    store.forgive(identity, host, generation)
    assert not pod().open(identity, host, A).doubted


def test_a_piece_with_other_bytes_counts_against_it_and_leaves_nothing(
    pod: Worker, objects: Objects, identity: IdentityInputs, host: HostTuple
) -> None:
    made = freeze(pod(), identity, host).artifact
    for found in objects.list("pieces", "test"):
        objects.put(found.key, b"x" * found.size, "test")
    store = pod()
    with pytest.raises(StoreError) as error:
        store.open(identity, host, A)
    assert error.value.reason is Reason.DIGEST_MISMATCH
    assert (error.value.generation, error.value.host) == (made.generation, digest(host)[:16])
    assert here(store) == [] and not list((store.root / "staging").iterdir())
    fail(pod(restore_attempts=1), identity, error.value.host or "", made.generation)
    assert pod(restore_attempts=1).open(identity, host, A).reason is Reason.QUARANTINED


def test_a_manifest_that_cannot_be_read_is_replaced_once_it_is_given_up(
    pod: Worker, objects: Objects, identity: IdentityInputs, host: HostTuple
) -> None:
    made = freeze(pod(), identity, host).artifact
    (manifest,) = [found for found in objects.list("artifacts", "test") if found.key.endswith(".json")]
    objects.put(manifest.key, b"{", "test")
    with pytest.raises(StoreError) as error:
        pod().open(identity, host, A)
    assert error.value.reason is Reason.MANIFEST_INVALID and error.value.generation == made.generation
    assert fail(pod(restore_attempts=1), identity, error.value.host or "", made.generation) is not None
    assert freeze(pod(restore_attempts=1), identity, host).outcome is FreezeOutcome.PUBLISHED
    assert pod().open(identity, host, A).artifact is not None


def test_with_a_key_only_what_is_signed_with_it_is_brought(
    pod: Worker, identity: IdentityInputs, host: HostTuple
) -> None:
    freeze(pod(), identity, host)
    store = pod(signing_key=b"key")
    with pytest.raises(StoreError) as error:
        store.open(identity, host, A)
    assert error.value.reason is Reason.MANIFEST_INVALID and here(store) == []


# --- who uses it, and what is known ---


def test_it_stays_until_the_last_user_lets_go(
    pod: Worker, objects: Objects, identity: IdentityInputs, host: HostTuple
) -> None:
    freeze(pod(user="one/pool"), identity, host)
    pod(user="two/pool").open(identity, host, A)
    done = collect.remove(objects, digest(identity), digest(host), "one/pool")
    assert done.count == 0 and "two/pool" in done.kept[0]
    assert pod().open(identity, host, A).artifact is not None
    done = collect.remove(objects, digest(identity), digest(host), "two/pool")
    assert (done.count, done.kept) == (1, ())
    assert pod().open(identity, host, A).artifact is None
    for _ in range(2):  # marked, and deleted
        collect.collect(objects, grace=0.0)
    assert objects.list("", "test") == []
    assert collect.remove(objects, digest(identity), digest(host), "two/pool").count == 0


def test_what_is_said_about_what_is_gone_goes_too(
    pod: Worker, objects: Objects, identity: IdentityInputs, host: HostTuple
) -> None:
    made = freeze(pod(user="one/pool"), identity, host).artifact
    lease = pod().lease(identity, host, A).try_acquire()
    fail(pod(restore_attempts=1), identity, host, made.generation)
    collect.collect(objects, grace=0.0)
    there = {found.key.split("/")[0] for found in objects.list("", "test")}
    assert there == {"artifacts", "pieces", "failures", "users"} and lease is not None
    lease.release()
    collect.remove(objects, digest(identity))
    for _ in range(3):
        collect.collect(objects, grace=0.0)
    assert objects.list("", "test") == []


def test_what_big_files_hold_is_known_to_all(pod: Worker, identity: IdentityInputs) -> None:
    one, other = pod(), pod()
    assert other.contents.get("key") is None
    one.contents.put("key", Known(content="c", samples="s"))
    assert other.contents.get("key") == Known(content="c", samples="s")
    assert Store(other.root).contents.get("key") is not None, "and on its disk from then on"


@pytest.mark.parametrize("data", [b"", b"{", b"\xff", b"[]", b'{"rounds":99999999999999999999,"generation":"g"}'])
def test_what_is_none_of_ours_is_taken_for_nothing(
    pod: Worker, objects: Objects, identity: IdentityInputs, host: HostTuple, data: bytes
) -> None:
    generation = freeze(pod(), identity, host).artifact.generation
    place = Place.of(digest(identity), digest(host))
    for key in (place.lease, place.quarantine, f"{place.failures(generation)}/x.json", f"{place.users}/x"):
        objects.put(key, data, "test")
    assert pod().open(identity, host, A).artifact is not None
    lease = pod().lease(identity, host, A).try_acquire()
    assert lease is not None
    lease.check()
    given_up = fail(pod(restore_attempts=1), identity, host, generation)
    assert given_up is not None and given_up.seconds_left <= LONGEST_DELAY
    store = pod()
    for found in [*objects.list("", "test")]:
        objects.put(found.key, data, "test")
    assert store.open(identity, host, A).reason is Reason.NO_ARTIFACT
    lease.release()


def test_a_bucket_that_fails_is_not_asked_for_each_file(pod: Worker, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def get(key: str, stage: str) -> None:
        asked.append(key)
        raise StoreError(Reason.OBJECT_STORE_UNAVAILABLE, stage, "gone")

    store = pod(objects=Objects("memory:///"))
    monkeypatch.setattr(store._objects, "get", get)
    contents = store.contents
    assert [contents.get(key) for key in ("a", "b")] == [None, None] and len(asked) == 1
    contents.put("a", Known(content="c", samples="s"))
    assert contents.get("a") == Known(content="c", samples="s"), "on its own disk"


# --- a cache on the node ---


@pytest.fixture
def cache() -> Iterator[NodeCache]:
    place = Path(tempfile.mkdtemp(dir="/dev/shm", prefix="vernal-test-"))
    yield NodeCache(place, 1 << 40)
    shutil.rmtree(place)


def test_what_the_node_has_is_not_fetched(
    pod: Worker, objects: Objects, cache: NodeCache, identity: IdentityInputs, host: HostTuple
) -> None:
    """The bucket is asked which one is current, and for no byte of it."""
    artifact = freeze(pod(), identity, host).artifact
    fetched: list[int] = []
    first = pod(cached=cache.look, on_progress=lambda what, done, size: fetched.append(size))
    found = first.open(identity, host, A)
    assert found.view is None and found.artifact is not None and here(first) == [artifact.generation] and fetched
    cache.fill(found.artifact)
    fetched.clear()
    second = pod(cached=cache.look, on_progress=lambda what, done, size: fetched.append(size))
    found = second.open(identity, host, B)
    assert found.view is not None and found.artifact is not None and found.artifact.path == found.view.path
    with found.view:
        found.artifact.verify()
        assert (found.artifact.path / "process/a.img").read_bytes() == FILES["process/a.img"]
    assert found.artifact.manifest == artifact.manifest and not fetched and here(second) == []
    assert found.reading is None, "nobody collects from a bucket what is read"
    fail(second, identity, host, artifact.generation)
    again = second.open(identity, host, B)
    assert again.doubted and again.view is not None
    again.view.release()
    collect.remove(objects, digest(identity), digest(host))
    assert second.open(identity, host, B).reason is Reason.NO_ARTIFACT, "the bucket decides"


def into(cache: NodeCache, tier: str = "disk") -> dict[str, Any]:
    """Options of a pod whose node has this cache."""
    board = Board(WorkerState(pod="", namespace="", pool="", revision="", phase=Phase.STARTING))
    caching = Caching(cache, tier, board)
    return {"cached": caching.look, "fetched": caching.fetch}


def test_what_is_nowhere_on_the_node_goes_straight_to_its_cache(
    pod: Worker, cache: NodeCache, identity: IdentityInputs, host: HostTuple
) -> None:
    made = freeze(pod(), identity, host).artifact
    told: list[str] = []
    first = pod(**into(cache), on_progress=lambda what, done, size: told.append(what))
    found = first.open(identity, host, A)
    assert found.view is not None and found.artifact is not None and found.artifact.path == found.view.path
    with found.view:
        found.artifact.verify()
        assert (found.artifact.path / "process/a.img").read_bytes() == FILES["process/a.img"]
    assert found.artifact.manifest == made.manifest and here(first) == [] and set(told) == {"fetch"}
    told.clear()
    second = pod(**into(cache), on_progress=lambda what, done, size: told.append(what))
    again = second.open(identity, host, B)
    assert again.view is not None and not told and here(second) == []
    again.view.release()


def test_a_copy_of_the_pods_own_is_thawed_and_not_fetched_again(
    pod: Worker, cache: NodeCache, identity: IdentityInputs, host: HostTuple
) -> None:
    """Its container started once more."""
    made = freeze(pod(), identity, host).artifact
    store = pod()
    assert store.open(identity, host, A).artifact is not None
    store._in_node_cache, store._into_node_cache = into(cache).values()
    found = store.open(identity, host, A)
    assert found.view is None and found.artifact is not None and found.artifact.path.is_relative_to(store.root)
    assert cache.look(made.manifest) is None


@pytest.mark.parametrize("harm", ["full", "broken", "memory", "not to be written"])
def test_a_cache_that_takes_nothing_leaves_the_start_to_the_pods_own_copy(
    pod: Worker, cache: NodeCache, identity: IdentityInputs, host: HostTuple, harm: str
) -> None:
    made = freeze(pod(), identity, host).artifact
    root = cache._mount
    if harm == "full":
        cache._limit = 1
    if harm == "broken":
        (root / FORMAT).write_text("a file where a directory should be")
    if harm == "not to be written":
        (root / FORMAT / FILLING).mkdir(parents=True)
    store = pod(**into(cache, "memory" if harm == "memory" else "disk"))
    found = store.open(identity, host, A)
    assert found.view is None and found.artifact is not None and here(store) == [made.generation]
    found.artifact.verify()


@pytest.mark.parametrize("rest", [None, b"a" * 4999, b"b" * 5000], ids=["gone", "cut short", "other bytes"])
def test_what_the_bucket_does_not_have_whole_gets_into_no_cache(
    pod: Worker, objects: Objects, cache: NodeCache, identity: IdentityInputs, host: HostTuple, rest: bytes | None
) -> None:
    """And counts against the checkpoint, as it does on the pod's own disk."""
    made = freeze(pod(), identity, host).artifact
    (key,) = [found.key for found in objects.list("", "test") if made.digests("process/a.img")[0] in found.key]
    if rest is None:
        objects.delete([key], "test")
    else:
        objects.put(key, rest, "test")
    store = pod(**into(cache))
    with pytest.raises(StoreError) as error:
        store.open(identity, host, A)
    assert error.value.reason is (Reason.FILE_MISSING if rest is None else Reason.DIGEST_MISMATCH)
    assert error.value.generation == made.generation and error.value.host is not None
    assert cache.look(made.manifest) is None and here(store) == []


def test_pods_of_a_node_that_miss_at_once_fetch_each_byte_once(
    pod: Worker, cache: NodeCache, identity: IdentityInputs, host: HostTuple
) -> None:
    freeze(pod(), identity, host)
    fetched = [0] * 4
    errors: list[BaseException] = []
    together = threading.Barrier(len(fetched))

    def start(number: int) -> None:
        def told(what: str, done: int, size: int) -> None:
            fetched[number] = size

        try:
            store = pod(**into(NodeCache(cache._mount, 1 << 40)), on_progress=told)
            together.wait(GUARD_SECONDS)
            found = store.open(identity, host, Owner(pod=str(number)))
            assert found.view is not None and found.artifact is not None
            with found.view:
                found.artifact.verify()
            assert here(store) == []
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=start, args=[number]) for number in range(len(fetched))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(GUARD_SECONDS)
    assert not errors and sorted(fetched) == [0, 0, 0, 5002]
