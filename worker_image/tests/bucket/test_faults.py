"""What networks and S3 servers do wrong: published whole or not at all, fetched whole or not at all, no wrong byte."""

import shutil
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from object_store.server import S3Server
from patience import GUARD_SECONDS
from s3_proxy import Call, Choose, Cut, Fault, Flipped, Lost, S3Proxy, Silent, Status
from vernal_contract.identity import HostTuple, IdentityInputs, digest
from vernal_contract.reasons import Reason
from vernal_contract.state import FreezeOutcome
from vernal_worker.bucket import objects as connections
from vernal_worker.bucket import pointer
from vernal_worker.bucket.collect import collect, remove
from vernal_worker.bucket.keys import Place
from vernal_worker.bucket.objects import Objects
from vernal_worker.bucket.pull import pull
from vernal_worker.bucket.push import push
from vernal_worker.bucket.store import BucketStore
from vernal_worker.store.artifact import Artifact
from vernal_worker.store.errors import StoreError
from vernal_worker.store.lease import Owner
from vernal_worker.store.manifest import Manifest
from vernal_worker.store.node_cache import FILLING, NodeCache, View
from vernal_worker.store.receiving import Source
from vernal_worker.store.store import Store

pytestmark = pytest.mark.s3

ERROR, SLOW_DOWN = Status(500, "InternalError"), Status(503, "SlowDown")
EXPIRED, FORBIDDEN = Status(400, "ExpiredToken"), Status(403, "AccessDenied")
FILES = {f"process/{n}.img": bytes([n]) * 3000 for n in range(4)} | {"oracle.json": b"{}"}


class Bucket:
    """One of a real server; `through` a proxy or straight."""

    def __init__(self, server: S3Server, stack: ExitStack) -> None:
        self.server, self._stack = server, stack
        self._url = f"s3://{server.make_bucket()}/models"

    def straight(self) -> Objects:
        return Objects(self._url, endpoint=self.server.url)

    def through(self, choose: Choose, retry_seconds: float = 60.0) -> tuple[Objects, S3Proxy]:
        proxy = self._stack.enter_context(S3Proxy(self.server.port, choose))
        return Objects(self._url, endpoint=proxy.url, retry_seconds=retry_seconds), proxy


@pytest.fixture
def bucket(s3: S3Server, s3_environment: None) -> Iterator[Bucket]:
    with ExitStack() as stack:
        yield Bucket(s3, stack)


def place_of(artifact: Artifact) -> Place:
    return Place.of(artifact.manifest.identity, artifact.manifest.host_tuple)


def once(fault: Fault, method: str) -> Choose:
    """The first call of this method on every path."""
    return lambda call: fault if call.method == method and call.number == 0 else None


@pytest.mark.parametrize("fault", [ERROR, SLOW_DOWN, Lost()], ids=repr)
@pytest.mark.parametrize("method", ["PUT", "GET", "HEAD", "POST", "DELETE"])
def test_what_passes_is_tried_again(
    bucket: Bucket, make: Callable[..., Artifact], worker: Store, method: str, fault: Fault
) -> None:
    """Also where only the answer was lost: then the second call is refused because of the first."""
    made = make(FILES)
    objects, proxy = bucket.through(once(fault, method))
    assert push(objects, made).outcome is FreezeOutcome.PUBLISHED
    pull(objects, worker.root, place_of(made)).artifact.verify()
    collect(objects, grace=0.0)
    pull(bucket.straight(), worker.root, place_of(made)).artifact.verify()
    assert proxy.met or method == "DELETE", "each call met it"


@pytest.mark.parametrize("fault", [Cut(), Flipped(), Lost()], ids=repr)
def test_a_body_that_arrives_damaged_is_fetched_again(
    bucket: Bucket, make: Callable[..., Artifact], worker: Store, fault: Fault
) -> None:
    made = make(FILES)
    push(bucket.straight(), made)
    objects, proxy = bucket.through(lambda call: fault if "/pieces/" in call.path and call.number == 0 else None)
    pulled = pull(objects, worker.root, place_of(made))
    pulled.artifact.verify()
    assert len(proxy.met) == len(FILES)


@pytest.mark.parametrize("fault", [Cut(), Flipped()], ids=repr)
def test_a_body_that_stays_damaged_is_refused(
    bucket: Bucket, make: Callable[..., Artifact], worker: Store, fault: Fault
) -> None:
    made = make(FILES)
    push(bucket.straight(), made)
    objects, _ = bucket.through(lambda call: fault if "/pieces/" in call.path else None, retry_seconds=1.0)
    with pytest.raises(StoreError) as error:
        pull(objects, worker.root, place_of(made))
    assert error.value.reason in (Reason.DIGEST_MISMATCH, Reason.OBJECT_STORE_UNAVAILABLE)
    assert not list(worker.root.rglob("*.img"))


@pytest.mark.parametrize("fault", [EXPIRED, FORBIDDEN], ids=repr)
def test_credentials_that_do_not_count(
    bucket: Bucket, make: Callable[..., Artifact], worker: Store, fault: Fault
) -> None:
    made = make(FILES)
    objects, _ = bucket.through(lambda call: fault, retry_seconds=1.0)
    for attempt in (lambda: push(objects, made), lambda: pull(objects, worker.root, place_of(made))):
        with pytest.raises(StoreError) as error:
            attempt()
        assert error.value.reason is Reason.OBJECT_STORE_UNAVAILABLE
        assert str(fault.s3_code) in error.value.message or "credentials" in error.value.message
        assert "vernal-secret" not in error.value.message


def test_wrong_credentials(bucket: Bucket, make: Callable[..., Artifact], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "another")
    with pytest.raises(StoreError) as error:
        push(bucket.straight(), make(FILES))
    assert error.value.reason is Reason.OBJECT_STORE_UNAVAILABLE and "credentials" in error.value.message


def test_a_server_that_is_silent_is_given_up(
    bucket: Bucket, make: Callable[..., Artifact], worker: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = make(FILES)
    push(bucket.straight(), made)
    monkeypatch.setattr(connections, "_SILENT_SECONDS", 1.0)
    objects, _ = bucket.through(lambda call: Silent() if "/pieces/" in call.path else None, retry_seconds=2.0)
    with pytest.raises(StoreError) as error:
        pull(objects, worker.root, place_of(made))
    assert error.value.reason is Reason.OBJECT_STORE_UNAVAILABLE
    assert not list(worker.root.rglob("*.img"))


def test_published_whole_or_not_at_all_whichever_call_fails(
    bucket: Bucket, make: Callable[..., Artifact], tmp_path: Path
) -> None:
    """Every call of a publication that replaces another in turn, for good: refused, or done without an answer."""
    first = make(FILES)
    second = make(FILES | {"process/0.img": b"other"})
    straight = bucket.straight()
    push(straight, first)
    count = 0
    for fault in (ERROR, Lost()):
        for at in range(100):
            objects, proxy = bucket.through(_from(at, fault), retry_seconds=0.0)
            try:
                push(objects, second, may_replace=lambda generation: True)
            except StoreError as error:
                assert error.reason is Reason.OBJECT_STORE_UNAVAILABLE
            worker = Store(tmp_path / f"worker-{count}")
            worker.root.mkdir()
            pulled = pull(straight, worker.root, place_of(first)).artifact
            pulled.verify()
            assert pulled.generation in (first.generation, second.generation)
            count += 1
            if len(proxy.calls) <= at:
                break
            push(straight, first, may_replace=lambda generation: True)
            for _ in range(2):  # what is left of it is marked, and goes: the next one makes as many calls
                collect(straight, grace=0.0)
    assert count > 15


def _from(at: int, fault: Fault) -> Choose:
    seen = [0]

    def choose(call: Call) -> Fault | None:
        seen[0] += 1
        return fault if seen[0] > at else None

    return choose


def test_an_answer_that_was_lost_does_not_hide_who_won(bucket: Bucket, make: Callable[..., Artifact]) -> None:
    made = make(FILES)

    def choose(call: Call) -> Fault | None:
        return Lost() if call.method == "PUT" and call.path.endswith("/current") and call.number == 0 else None

    objects, proxy = bucket.through(choose)
    assert push(objects, made).outcome is FreezeOutcome.PUBLISHED
    assert len(proxy.met) == 1
    current = pointer.look(objects, place_of(made), "test")
    assert current is not None and current.generation == made.generation


def test_nothing_of_an_upload_that_was_given_up_is_hidden(bucket: Bucket, make: Callable[..., Any]) -> None:
    """No upload has parts: what is in the bucket is what a list shows, and the collector deletes it."""
    made = make(FILES)
    objects, proxy = bucket.through(
        lambda call: ERROR if call.method == "PUT" and call.path.endswith(".json") else None, retry_seconds=0.0
    )
    with pytest.raises(StoreError):
        push(objects, made)
    assert not [call for call in proxy.calls if "uploads" in call.path or "uploadId" in call.path]
    straight = bucket.straight()
    assert straight.list("", "test")
    collect(straight, grace=0.0)
    assert straight.list("", "test") == []


# --- a worker whose pool names the bucket ---

ME = Owner(pod="me")


@pytest.fixture
def pod(tmp_path: Path) -> Callable[..., BucketStore]:
    """The store of a new pod: nothing is on its disk."""
    numbers = iter(range(1000))

    def pod(objects: Objects, **options: Any) -> BucketStore:
        root = tmp_path / f"pod-{next(numbers)}"
        root.mkdir()
        return BucketStore(root, objects, user="n/p", **options)

    return pod


Pod = Callable[..., BucketStore]


def generations(store: Store) -> list[str]:
    return [path.name for path in store.root.glob("artifacts/*/*/2*")]


@pytest.mark.parametrize("fault", [ERROR, SLOW_DOWN, EXPIRED, FORBIDDEN, Lost()], ids=repr)
def test_a_bucket_that_does_not_answer_is_said_so_and_what_was_brought_is_thawed(
    bucket: Bucket, make: Callable[..., Artifact], pod: Pod, identity: IdentityInputs, host: HostTuple, fault: Fault
) -> None:
    made = make(FILES)
    push(bucket.straight(), made)
    objects, _ = bucket.through(lambda call: fault, retry_seconds=0.0)
    store = pod(objects)
    with pytest.raises(StoreError) as error:
        store.open(identity, host, ME)
    assert error.value.reason is Reason.OBJECT_STORE_UNAVAILABLE and error.value.generation is None
    with pytest.raises(StoreError) as error:
        store.lease(identity, host, ME).try_acquire()
    assert error.value.reason is Reason.OBJECT_STORE_UNAVAILABLE
    pull(bucket.straight(), store.root, place_of(made))
    found = store.open(identity, host, ME).artifact
    assert found is not None
    found.verify()


def test_a_bucket_that_is_not_there(s3: S3Server, s3_environment: None, pod: Pod, identity: Any, host: Any) -> None:
    store = pod(Objects("s3://no-such-bucket/models", endpoint=s3.url, retry_seconds=0.0))
    with pytest.raises(StoreError) as error:
        staging = store.stage(identity, host)
        (staging.dir / "a").write_bytes(b"a")
        store.publish(staging, created_by="test")
    assert error.value.reason is Reason.OBJECT_STORE_UNAVAILABLE and "no-such-bucket" in error.value.message
    assert generations(store) == []


def test_brought_whole_or_not_at_all_whichever_call_fails(
    bucket: Bucket, make: Callable[..., Artifact], pod: Pod, identity: IdentityInputs, host: HostTuple
) -> None:
    push(bucket.straight(), make(FILES))
    refused = 0
    for at in range(100):
        objects, proxy = bucket.through(_from(at, ERROR), retry_seconds=0.0)
        store = pod(objects)
        try:
            found = store.open(identity, host, ME).artifact
            assert found is not None
            found.verify()
        except StoreError as error:
            assert error.reason is Reason.OBJECT_STORE_UNAVAILABLE
            assert generations(store) == []
            refused += 1
        if len(proxy.calls) <= at:
            break
    assert refused > 8


@pytest.mark.parametrize("fault", [ERROR, Lost()], ids=repr)
def test_published_in_the_bucket_or_nowhere_whichever_call_fails(
    bucket: Bucket, pod: Pod, identity: IdentityInputs, host: HostTuple, fault: Fault
) -> None:
    refused = 0
    for at in range(100):
        objects, proxy = bucket.through(_from(at, fault), retry_seconds=0.0)
        creator, other = pod(objects), pod(bucket.straight())
        staging = creator.stage(identity, host)
        (staging.dir / "oracle.json").write_bytes(b"%d" % at)
        try:
            done = creator.publish(staging, created_by="test")
        except StoreError as error:
            assert error.reason is Reason.OBJECT_STORE_UNAVAILABLE
            assert generations(creator) == []
            refused += 1
        else:
            assert other.published(identity, host) == done.artifact.generation
        if (found := other.open(identity, host, ME).artifact) is not None:  # of this attempt or of an earlier one
            found.verify()
        if len(proxy.calls) <= at:
            break
        remove(bucket.straight(), digest(identity))
        for _ in range(2):  # what is left of it is marked, and goes: the next one makes as many calls
            collect(bucket.straight(), grace=0.0)
    assert refused > 4


def test_who_is_told_to_stop_does_not_wait_for_a_bucket_that_is_silent(
    bucket: Bucket, make: Callable[..., Artifact], pod: Pod, identity: IdentityInputs, host: HostTuple
) -> None:
    push(bucket.straight(), make(FILES))
    stop = threading.Event()

    def choose(call: Call) -> Fault | None:
        if "/pieces/" not in call.path:
            return None
        stop.set()
        return Silent()

    objects, proxy = bucket.through(choose)
    with pytest.raises(StoreError) as error:
        pod(objects, patience=GUARD_SECONDS, cancel=stop).open(identity, host, ME)
    assert error.value.reason is Reason.THAW_GIVEN_UP and not proxy.released.is_set()


def test_who_may_only_read_thaws(
    bucket: Bucket, make: Callable[..., Artifact], pod: Pod, identity: IdentityInputs, host: HostTuple
) -> None:
    push(bucket.straight(), make(FILES))
    objects, proxy = bucket.through(lambda call: None if call.method in ("GET", "HEAD") else FORBIDDEN)
    found = pod(objects).open(identity, host, ME).artifact
    assert found is not None and proxy.met
    found.verify()


# --- a worker whose node has a cache ---


@pytest.fixture
def cache() -> Iterator[NodeCache]:
    place = Path(tempfile.mkdtemp(dir="/dev/shm", prefix="vernal-test-"))
    yield NodeCache(place, 1 << 40)
    shutil.rmtree(place)


def by(cache: NodeCache) -> dict[str, Any]:
    """Options of a pod whose node has this cache."""

    def fetched(content: Manifest, source: Source, wait: float | None, on_progress: Any) -> View | None:
        return cache.fetch(content, source, wait=wait, on_progress=on_progress).view

    return {"cached": cache.look, "fetched": fetched}


def once_a_piece(fault: Fault) -> Choose:
    return lambda call: fault if "/pieces/" in call.path and call.number == 0 else None


@pytest.mark.parametrize("fault", [Cut(), Flipped(), Lost(), ERROR, SLOW_DOWN], ids=repr)
def test_what_arrives_damaged_is_fetched_again_before_the_cache_has_it(
    bucket: Bucket, make: Callable[..., Artifact], pod: Pod, cache: NodeCache, identity: Any, host: Any, fault: Fault
) -> None:
    push(bucket.straight(), make(FILES))
    objects, proxy = bucket.through(once_a_piece(fault))
    found = pod(objects, **by(cache)).open(identity, host, ME)
    assert found.view is not None and found.artifact is not None and len(proxy.met) == len(FILES)
    with found.view:
        found.artifact.verify()


@pytest.mark.parametrize("fault", [Cut(), Flipped(), SLOW_DOWN], ids=repr)
def test_what_stays_damaged_does_not_get_into_the_cache(
    bucket: Bucket, make: Callable[..., Artifact], pod: Pod, cache: NodeCache, identity: Any, host: Any, fault: Fault
) -> None:
    made = make(FILES)
    push(bucket.straight(), made)
    objects, _ = bucket.through(lambda call: fault if "/pieces/" in call.path else None, retry_seconds=1.0)
    store = pod(objects, **by(cache))
    with pytest.raises(StoreError) as error:
        store.open(identity, host, ME)
    assert error.value.reason in (Reason.DIGEST_MISMATCH, Reason.OBJECT_STORE_UNAVAILABLE)
    assert not [path for path in cache._mount.rglob("*") if path.is_file() and path.name != FILLING]
    assert generations(store) == []


def test_in_the_cache_whole_or_not_at_all_whichever_call_fails(
    bucket: Bucket, make: Callable[..., Artifact], pod: Pod, cache: NodeCache, identity: IdentityInputs, host: HostTuple
) -> None:
    made = make(FILES)
    push(bucket.straight(), made)
    refused = 0
    for at in range(100):
        objects, proxy = bucket.through(_from(at, ERROR), retry_seconds=0.0)
        try:
            found = pod(objects, **by(cache)).open(identity, host, ME)
            assert found.view is not None and found.artifact is not None
            with found.view:
                found.artifact.verify()
        except StoreError as error:
            assert error.reason is Reason.OBJECT_STORE_UNAVAILABLE
            refused += 1
        if (view := cache.look(made.manifest)) is not None:
            with view:
                Artifact(view.path, made.manifest).verify()
        if len(proxy.calls) <= at:
            break
        cache.drop(made.manifest)
    assert refused > 8
