"""What nobody needs goes; what somebody may need stays, whoever publishes at the same time."""

import random
import threading
import types
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from patience import GUARD_SECONDS
from vernal_contract.identity import HostTuple, IdentityInputs
from vernal_contract.reasons import Reason
from vernal_contract.state import FreezeOutcome
from vernal_worker.bucket import keys, pointer, publications
from vernal_worker.bucket import push as pushing
from vernal_worker.bucket.collect import GRACE, collect, remove
from vernal_worker.bucket.keys import Place
from vernal_worker.bucket.objects import Found, Objects, Read
from vernal_worker.bucket.pull import pull
from vernal_worker.bucket.push import push
from vernal_worker.store.artifact import Artifact
from vernal_worker.store.errors import StoreError
from vernal_worker.store.store import Store

MakeArtifact = Callable[..., Artifact]


def identity_of(number: int) -> IdentityInputs:
    return IdentityInputs(
        image_id=f"sha256:{number}", engine_args={}, engine_env={}, model="m", weights="InImage", versions={}
    )


def place_of(artifact: Artifact) -> Place:
    return Place.of(artifact.manifest.identity, artifact.manifest.host_tuple)


def published(objects: Objects, artifact: Artifact) -> str:
    """The publication that is current."""
    current = pointer.look(objects, place_of(artifact), "test")
    assert current is not None and current.generation == artifact.generation
    return current.publication


def where(objects: Objects, artifact: Artifact) -> dict[str, str]:
    """The key of the only piece of each file that is not empty."""
    found = publications.load(objects, place_of(artifact), published(objects, artifact), "test").objects
    return {entry.path: found[entry.blake3[0]] for entry in artifact.manifest.files if entry.size}


def there(objects: Objects) -> set[str]:
    return {found.key for found in objects.list("", "test")}


def test_a_generation_that_was_replaced_goes_and_what_both_have_stays(
    objects: Objects, make: MakeArtifact, worker: Store
) -> None:
    first, second = make({"both": b"both", "own": b"first"}), make({"both": b"both", "own": b"second"})
    push(objects, first)
    retired = published(objects, first)
    of_first = where(objects, first)
    push(objects, second, may_replace=lambda generation: True)
    assert collect(objects).garbage == [], "it has been retired for less than the grace period"
    before = there(objects)
    foreseen = collect(objects, grace=0.0, dry=True)
    assert there(objects) == before
    done = collect(objects, grace=0.0)
    assert [(item.key, item.bytes) for item in done.garbage] == [(item.key, item.bytes) for item in foreseen.garbage]
    gone = {
        place_of(first).manifest(retired),
        place_of(first).retired(retired),
        of_first["own"],
    }
    assert {item.key for item in done.garbage} == gone and before - there(objects) == gone
    assert collect(objects, grace=0.0).garbage == []
    pull(objects, worker.root, place_of(second)).artifact.verify()


def test_what_is_removed_is_found_no_more_and_goes_after_the_grace_period(
    objects: Objects, make: MakeArtifact, worker: Store
) -> None:
    made = make()
    push(objects, made)
    assert remove(objects, made.manifest.identity).count == 1
    with pytest.raises(StoreError) as error:
        pull(objects, worker.root, place_of(made))
    assert error.value.reason is Reason.NO_ARTIFACT
    assert collect(objects).garbage == []
    collect(objects, grace=0.0)
    assert there(objects) == set()
    assert remove(objects, made.manifest.identity).count == 0


def test_only_the_host_that_is_named_is_removed(objects: Objects, make: MakeArtifact) -> None:
    here, other = make(), make(host=HostTuple(architecture="x86_64", cpu_features=(), kernel="6.12"))
    push(objects, here)
    push(objects, other)
    assert remove(objects, here.manifest.identity, here.manifest.host_tuple).count == 1
    assert pointer.look(objects, place_of(here), "test") is None
    assert pointer.look(objects, place_of(other), "test") is not None


def test_what_a_publication_left_when_it_was_killed_goes(
    objects: Objects, make: MakeArtifact, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After its pieces, and after its manifest."""
    made = make()

    class KilledError(BaseException):
        pass

    def killed(*_: Any) -> None:
        raise KilledError

    with monkeypatch.context() as patch:
        patch.setattr("vernal_worker.bucket.pointer.point", killed)
        with pytest.raises(KilledError):
            push(objects, made)
    assert any(made.generation in key for key in there(objects)), "its manifest"
    assert collect(objects).garbage == [], "it may become current yet"
    collect(objects, grace=0.0)  # marks it
    collect(objects, grace=0.0)
    assert there(objects) == set()


def test_a_manifest_that_cannot_be_read_keeps_all_pieces(objects: Objects, make: MakeArtifact) -> None:
    made = make()
    push(objects, made)
    pieces = set(where(objects, made).values())
    objects.put(place_of(made).manifest(published(objects, made)), b"of a newer Vernal", "test")
    done = collect(objects, grace=0.0)
    assert "ManifestInvalid" in done.kept and made.generation in done.kept
    assert pieces and pieces <= there(objects)


def test_what_is_not_ours_stays(objects: Objects) -> None:
    strange = ["pieces/readme", "pieces/aa/" + "b" * 64, "artifacts/readme", "artifacts/a/b/current", "notes"]
    for key in strange:
        objects.put(key, b"x", "test")
    collect(objects, grace=0.0)
    collect(objects, grace=0.0)
    assert there(objects) == set(strange)


def test_a_piece_that_nobody_has_is_sent_again(objects: Objects, make: MakeArtifact) -> None:
    """It may be collected at any moment."""
    first, second, third = (make({"f": b"content"}) for _ in range(3))
    push(objects, first)
    remove(objects, first.manifest.identity)
    assert push(objects, second).sent == 7
    assert push(objects, third, may_replace=lambda generation: True).sent == 0


# --- publications and the collector at the same time, one call after the other in any order -------------------


CALL_SECONDS = 500.0
"""The longest that a call takes here, before those of the others that come in between: `Objects` gives up sooner or
later as well."""


class _World:
    """A bucket with a clock of its own. Of those who take part one at a time goes on, by the choice of a seed."""

    def __init__(self, seed: int) -> None:
        self.draw = random.Random(seed)
        self.store = Objects("memory:///")._store
        self.time = 1e6
        self.pace = self.draw.choice([GRACE / 20, GRACE / 100, GRACE / 400])
        self.written: dict[str, float] = {}
        self._changed = threading.Condition()
        self._taking_part: set[str] = set()
        self._waiting: dict[tuple[str, int], float] = {}  # since when
        self._chosen: tuple[str, int] | None = None

    def run(self, parts: dict[str, Callable[[Objects], None]]) -> None:
        """All of them side by side; raises what one raises."""
        errors: list[BaseException] = []
        self._taking_part = set(parts)

        def take_part(name: str, work: Callable[[Objects], None]) -> None:
            try:
                work(_View(self, name))
            except BaseException as error:
                errors.append(error)
            finally:
                with self._changed:
                    self._taking_part.discard(name)
                    self._choose()

        threads = [threading.Thread(target=take_part, args=part) for part in parts.items()]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(GUARD_SECONDS)
        assert not errors, errors

    def in_turn(self, name: str, call: Callable[[], Any]) -> Any:
        """Where a publication is given up, the call that it is at goes on beside what comes next."""
        me = (name, threading.get_ident())
        with self._changed:
            if name in self._taking_part:
                self._waiting[me] = self.time
                self._choose()
                assert self._changed.wait_for(lambda: self._chosen == me or not self._taking_part, GUARD_SECONDS)
                self._waiting.pop(me, None)
                self._chosen = None
                self.time += self.draw.choice([0.0, self.pace])
            try:
                return call()
            finally:
                self._choose()  # the others may wait already, and a call that was given up comes for no other

    def _choose(self) -> None:
        if self._chosen is None and self._taking_part <= {name for name, _ in self._waiting}:
            late = [who for who, since in self._waiting.items() if self.time - since > CALL_SECONDS]
            self._chosen = self.draw.choice(sorted(late or self._waiting)) if self._waiting else None
            self._changed.notify_all()


class _View(Objects):
    def __init__(self, world: _World, name: str) -> None:
        self.url, self._store, self._world, self._name = "memory://", world.store, world, name

    def _turn(self, call: Callable[[], Any]) -> Any:
        return self._world.in_turn(self._name, call)

    def _known(self, found: Found) -> Found:
        return Found(found.key, found.size, self._world.written[found.key])

    def get(self, key: str, stage: str) -> Read | None:
        found: Read | None = self._turn(lambda: super(_View, self).get(key, stage))
        return found

    def stream(self, key: str, stage: str) -> Iterator[memoryview] | None:
        found: Iterator[memoryview] | None = self._turn(lambda: super(_View, self).stream(key, stage))
        return found

    def head(self, key: str, stage: str) -> Found | None:
        found: Found | None = self._turn(lambda: super(_View, self).head(key, stage))
        return self._known(found) if found is not None else None

    def put(self, key: str, data: bytes | bytearray, stage: str) -> None:
        def write() -> None:
            self._world.written[key] = self._world.time
            super(_View, self).put(key, data, stage)

        self._turn(write)

    def list(self, prefix: str, stage: str) -> list[Found]:
        found: list[Found] = self._turn(lambda: [self._known(f) for f in super(_View, self).list(prefix, stage)])
        return found

    def delete(self, wanted: Sequence[str], stage: str) -> None:
        for key in wanted:  # a server deletes them one by one
            self._turn(lambda key=key: super(_View, self).delete([key], stage))  # type: ignore[misc]

    def swap(self, key: str, data: bytes, before: Read | None, stage: str) -> bool:
        def write() -> bool:
            if not super(_View, self).swap(key, data, before, stage):
                return False
            self._world.written[key] = self._world.time
            return True

        done: bool = self._turn(write)
        return done

    def now(self, stage: str) -> float:
        now: float = self._turn(lambda: self._world.time)
        return now


CONTENTS = [{"a": b"a", "b": b"b"}, {"a": b"a", "c": b"c"}, {"b": b"b", "c": b"c"}]


@pytest.fixture
def three(make: MakeArtifact) -> list[Artifact]:
    """Any two have a piece in common."""
    return [make(files, identity=identity_of(n)) for n, files in enumerate(CONTENTS)]


@pytest.mark.parametrize("seeds", [range(n, n + 20) for n in range(0, 200, 20)], ids=str)
def test_no_publication_ever_lacks_a_piece(
    three: list[Artifact], seeds: range, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Artifacts that share pieces come, are removed and come again while the collector runs, hours or no time at all
    between one call and the next: what is current is whole, always."""
    monkeypatch.setattr(pushing, "default_threads", lambda: 1)
    finished = collected = 0
    for seed in seeds:
        world = _World(seed)
        monkeypatch.setattr(pushing, "time", types.SimpleNamespace(monotonic=lambda world=world: world.time))

        def idle(objects: Objects, world: _World = world) -> None:
            for _ in range(world.draw.randrange(120)):
                objects.now("test")

        def live(objects: Objects, artifact: Artifact, world: _World = world) -> None:
            nonlocal finished
            for _ in range(3):
                try:
                    finished += push(objects, artifact).outcome is FreezeOutcome.PUBLISHED
                except StoreError as error:
                    assert error.reason is Reason.STORE_SLOW
                idle(objects)
                if world.draw.random() < 0.7:
                    remove(objects, artifact.manifest.identity)
                idle(objects)

        def sweep(objects: Objects, world: _World = world) -> None:
            nonlocal collected
            for _ in range(10):
                collected += len(collect(objects).garbage)
                assert_whole(world)
                idle(objects)

        parts: dict[str, Callable[[Objects], None]] = {
            f"creator-{n}": lambda objects, artifact=artifact: live(objects, artifact)  # type: ignore[misc]
            for n, artifact in enumerate(three)
        }
        world.run(parts | {"collector": sweep})
        assert_whole(world)
    assert finished > 20 and collected > 20


def assert_whole(world: _World) -> None:
    """Looked at from outside, between two calls."""
    objects = _View(world, "nobody")
    names = {found.key for found in objects.list("", "test")}
    for key in names:
        named = keys.read(key)
        if named is None or not named.current:
            continue
        current = pointer.look(objects, named.place, "test")
        assert current is not None
        published = publications.load(objects, named.place, current.publication, "test")
        missing = set(published.objects.values()) - names
        assert not missing, f"{key} is current and lacks {missing}"
