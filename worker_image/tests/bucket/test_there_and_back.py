"""Artifacts go to a bucket and come back, whole and no byte twice; of several publishers one is current."""

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from blake3 import blake3
from patience import GUARD_SECONDS
from vernal_contract.identity import HostTuple, IdentityInputs
from vernal_contract.reasons import Reason
from vernal_contract.state import FreezeOutcome
from vernal_worker.bucket import failures, keys, pointer, publications
from vernal_worker.bucket.keys import Place
from vernal_worker.bucket.objects import Objects
from vernal_worker.bucket.pull import pull
from vernal_worker.bucket.push import push
from vernal_worker.store import manifest
from vernal_worker.store.artifact import Artifact
from vernal_worker.store.errors import StoreError
from vernal_worker.store.pieces import PIECE
from vernal_worker.store.store import Store

MakeArtifact = Callable[..., Artifact]


def place_of(artifact: Artifact) -> Place:
    return Place.of(artifact.manifest.identity, artifact.manifest.host_tuple)


def published(objects: Objects, artifact: Artifact) -> str:
    """The publication that is current."""
    current = pointer.look(objects, place_of(artifact), "test")
    assert current is not None and current.generation == artifact.generation
    return current.publication


def content(artifact: Artifact) -> dict[str, bytes]:
    return {entry.path: (artifact.path / entry.path).read_bytes() for entry in artifact.manifest.files}


def test_what_comes_back_is_what_went(
    objects: Objects, make: MakeArtifact, worker: Store, identity: IdentityInputs, host: HostTuple
) -> None:
    made = make()
    pushed = push(objects, made)
    assert (pushed.outcome, pushed.generation, pushed.sent) == (FreezeOutcome.PUBLISHED, made.generation, 5002)
    assert pull(objects, worker.root, place_of(made)).fetched == 5002
    found = worker.find(identity, host).artifact
    assert found is not None and found.generation == made.generation
    found.verify()
    assert content(found) == content(made)
    modes = {path.stat().st_mode & 0o777 for path in found.path.rglob("*")}
    assert modes == {0o700, 0o600}, "nothing of a checkpoint is readable by others"
    assert not list((worker.root / "staging").iterdir())


def test_what_is_there_does_not_go_again(objects: Objects, make: MakeArtifact, worker: Store) -> None:
    """A weights file of two pieces that two artifacts have, and that differ in a small one."""
    weights = b"w" * (PIECE + 5)
    first = make({"weights/0": weights, "process/a.img": b"first"})
    assert push(objects, first).sent == len(weights) + 5
    assert push(objects, first).sent == 0
    assert pull(objects, worker.root, place_of(first)).fetched == len(weights) + 5
    assert pull(objects, worker.root, place_of(first)).fetched == 0
    second = make({"weights/0": weights, "process/a.img": b"second"})
    assert push(objects, second, may_replace=lambda generation: generation == first.generation).sent == 6
    pulled = pull(objects, worker.root, place_of(second))
    assert pulled.fetched == 6, "the weights are a link to what is there"
    pulled.artifact.verify()
    assert pulled.artifact.generation == second.generation


def test_a_damaged_copy_is_replaced(objects: Objects, make: MakeArtifact, worker: Store) -> None:
    made = make()
    push(objects, made)
    first = pull(objects, worker.root, place_of(made)).artifact
    (first.path / "process" / "a.img").unlink()
    again = pull(objects, worker.root, place_of(made))
    assert again.artifact.path == first.path and again.fetched == 5002
    again.artifact.verify()


def test_of_two_publishers_the_first_is_current(objects: Objects, make: MakeArtifact, worker: Store) -> None:
    first, second = make(), make({"other": b"x"})
    push(objects, first)
    late = push(objects, second)
    assert (late.outcome, late.generation) == (FreezeOutcome.PUBLISHED_BY_OTHER, first.generation)
    assert pull(objects, worker.root, place_of(first)).artifact.generation == first.generation


def test_of_many_publishers_at_once_one_is_current(objects: Objects, make: MakeArtifact) -> None:
    made = [make({"file": bytes([n])}) for n in range(6)]
    outcomes: list[tuple[FreezeOutcome, str]] = []
    errors: list[BaseException] = []
    together = threading.Barrier(len(made))

    def publish(artifact: Artifact) -> None:
        try:
            together.wait(GUARD_SECONDS)
            pushed = push(objects, artifact)
            outcomes.append((pushed.outcome, pushed.generation))
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=publish, args=(artifact,)) for artifact in made]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(GUARD_SECONDS)
    assert not errors and len(outcomes) == len(made)
    assert [outcome for outcome, _ in outcomes].count(FreezeOutcome.PUBLISHED) == 1
    current = pointer.look(objects, place_of(made[0]), "test")
    assert current is not None and {generation for _, generation in outcomes} == {current.generation}


@pytest.mark.parametrize("rest", [None, b"half"], ids=["gone", "cut short"])
def test_a_piece_that_was_lost_is_sent_again(
    objects: Objects, make: MakeArtifact, worker: Store, rest: bytes | None
) -> None:
    """The next publication of the same content does not take over what is not there any more."""
    first, second = make({"both": b"content", "own": b"1"}), make({"both": b"content", "own": b"2"})
    push(objects, first)
    found = publications.load(objects, place_of(first), published(objects, first), "test")
    key = found.objects[first.digests("both")[0]]
    if rest is None:
        objects.delete([key], "test")
    else:
        objects.put(key, rest, "test")
    assert push(objects, second, may_replace=lambda generation: True).sent == 8
    pull(objects, worker.root, place_of(second)).artifact.verify()


def test_a_piece_with_other_bytes_is_sent_again_once_a_thaw_has_found_so(
    objects: Objects, make: MakeArtifact, worker: Store, identity: IdentityInputs
) -> None:
    """Else what rotted once would be in each later checkpoint of the same content, and none of them would ever thaw.
    Also where another checkpoint, of which nobody has said anything, has the same object."""
    other = make({"both": b"content", "own": b"0"}, identity=msgspec.structs.replace(identity, model="other"))
    first, second = make({"both": b"content", "own": b"1"}), make({"both": b"content", "own": b"2"})
    push(objects, other)
    assert push(objects, first).sent == 1
    place = place_of(first)
    key = publications.load(objects, place, published(objects, first), "test").objects[first.digests("both")[0]]
    objects.put(key, b"CONTENT", "test")
    with pytest.raises(StoreError) as refused:
        pull(objects, worker.root, place)
    assert refused.value.reason is Reason.DIGEST_MISMATCH and refused.value.generation is not None
    failures.record(
        objects, place, refused.value.generation, stage="pull", reason=refused.value.reason, message="", worker="w"
    )
    assert push(objects, second, may_replace=lambda generation: True).sent == 8
    pull(objects, worker.root, place_of(second)).artifact.verify()


def test_hosts_do_not_share_a_pointer(objects: Objects, make: MakeArtifact, worker: Store) -> None:
    here, there = make(), make(host=HostTuple(architecture="x86_64", cpu_features=(), kernel="6.12"))
    assert push(objects, here).outcome == push(objects, there).outcome == FreezeOutcome.PUBLISHED
    for artifact in (here, there):
        assert pull(objects, worker.root, place_of(artifact)).artifact.generation == artifact.generation


def test_nothing_there(objects: Objects, make: MakeArtifact, worker: Store) -> None:
    with pytest.raises(StoreError) as error:
        pull(objects, worker.root, place_of(make()))
    assert error.value.reason is Reason.NO_ARTIFACT and "current" in error.value.message


def test_a_file_that_rotted_here_is_not_published(objects: Objects, make: MakeArtifact) -> None:
    made = make()
    (made.path / "process" / "a.img").write_bytes(b"b" * 5000)
    with pytest.raises(StoreError) as error:
        push(objects, made)
    assert error.value.reason is Reason.DIGEST_MISMATCH and "process/a.img" in error.value.message
    assert pointer.look(objects, place_of(made), "test") is None


def test_a_file_that_is_gone_is_named(objects: Objects, make: MakeArtifact) -> None:
    made = make()
    (made.path / "process" / "a.img").unlink()
    with pytest.raises(StoreError) as error:
        push(objects, made)
    assert error.value.reason is Reason.FILE_MISSING and "process/a.img" in error.value.message


@pytest.mark.parametrize("harm", ["missing", "longer", "shorter", "other bytes"])
def test_a_piece_that_is_not_as_written(objects: Objects, make: MakeArtifact, worker: Store, harm: str) -> None:
    made = make()
    push(objects, made)
    published_ = publications.load(objects, place_of(made), published(objects, made), "test")
    key = published_.objects[made.digests("process/a.img")[0]]
    harmed = {"longer": b"a" * 5001, "shorter": b"a" * 4999, "other bytes": b"b" * 5000}
    if harm == "missing":
        objects.delete([key], "test")
    else:
        objects.put(key, harmed[harm], "test")
    with pytest.raises(StoreError) as error:
        pull(objects, worker.root, place_of(made))
    assert error.value.reason is (Reason.FILE_MISSING if harm == "missing" else Reason.DIGEST_MISMATCH)
    assert error.value.generation == made.generation and "process/a.img" in error.value.message
    assert not list(worker.root.rglob("manifest.json")) and not list((worker.root / "staging").iterdir())


def _planted(objects: Objects, made: Artifact, **changes: Any) -> None:
    """A manifest that its digest agrees with and that says something else."""
    key = place_of(made).manifest(published(objects, made))
    token = keys.new_token()
    changed = msgspec.structs.replace(made.manifest, **changes)
    where = {digest: keys.piece(digest, token) for digest in publications.wanted(changed) if len(digest) == 64}
    where = {digest: key for digest, key in where.items() if keys.read_piece(key)}
    objects.put(key, publications.encode(manifest.encode(changed), where), "test")


@pytest.mark.parametrize(
    "path", ["../../escaped", "/etc/escaped", "a/../../b", "a//b", "./a", "a\0b", "", "manifest.json"]
)
def test_a_path_out_of_the_artifact_is_refused(
    objects: Objects, make: MakeArtifact, worker: Store, path: str, tmp_path: Path
) -> None:
    made = make()
    push(objects, made)
    entry = msgspec.structs.replace(made.manifest.files[0], path=path)
    _planted(objects, made, files=(entry,))
    before = set(tmp_path.rglob("*"))
    with pytest.raises(StoreError) as error:
        pull(objects, worker.root, place_of(made))
    assert error.value.reason is Reason.MANIFEST_INVALID and "no path below the artifact" in error.value.message
    assert set(tmp_path.rglob("*")) == before


def test_a_manifest_that_lies_is_refused(objects: Objects, make: MakeArtifact, worker: Store) -> None:
    made = make()
    push(objects, made)
    entry = made.manifest.files[-1]
    lies = {
        "2 digests": (msgspec.structs.replace(entry, blake3=entry.blake3 * 2),),
        "a digest that is none": (msgspec.structs.replace(entry, blake3=("../" + "0" * 61,)),),
        "a file twice": (entry, entry),
        "digests for -1 bytes": (msgspec.structs.replace(entry, size=-1),),
        "digests for 1000000000000000 bytes": (msgspec.structs.replace(entry, size=10**15),),
    }
    for said, files in lies.items():
        _planted(objects, made, files=files)
        with pytest.raises(StoreError) as error:
            pull(objects, worker.root, place_of(made))
        assert error.value.reason is Reason.MANIFEST_INVALID and said in error.value.message


def test_a_manifest_of_another_place_is_refused(objects: Objects, make: MakeArtifact, worker: Store) -> None:
    made = make()
    push(objects, made)
    other = Place(blake3(b"other").hexdigest(), place_of(made).host)
    read = objects.get(place_of(made).manifest(published(objects, made)), "test")
    assert read is not None
    objects.put(other.manifest(published(objects, made)), read.data, "test")
    pointer.point(objects, other, published(objects, made), lambda current: False, "test")
    with pytest.raises(StoreError) as error:
        pull(objects, worker.root, other)
    assert error.value.reason is Reason.MANIFEST_INVALID and "another identity" in error.value.message


def test_signatures_go_along(objects: Objects, make: MakeArtifact, worker: Store) -> None:
    made = make(signing_key=b"key")
    push(objects, made)
    with pytest.raises(StoreError) as error:
        pull(objects, worker.root, place_of(made), signing_key=b"another")
    assert error.value.reason is Reason.MANIFEST_INVALID and "signed" in error.value.message
    pull(objects, worker.root, place_of(made), signing_key=b"key").artifact.verify()


def test_a_pointer_of_something_else_counts_as_none(objects: Objects, make: MakeArtifact, worker: Store) -> None:
    made = make()
    for nonsense in (b"", b"{}", b'{"generation":"../x","token":""}', b"\xff"):
        objects.put(place_of(made).current, nonsense, "test")
        with pytest.raises(StoreError) as error:
            pull(objects, worker.root, place_of(made))
        assert error.value.reason is Reason.NO_ARTIFACT
    assert push(objects, made).outcome is FreezeOutcome.PUBLISHED


def test_giving_up(objects: Objects, make: MakeArtifact, worker: Store) -> None:
    made, cancel = make(), threading.Event()
    cancel.set()
    with pytest.raises(StoreError) as error:
        push(objects, made, cancel=cancel)
    assert error.value.reason is Reason.FREEZE_GIVEN_UP
    push(objects, made)
    with pytest.raises(StoreError) as error:
        pull(objects, worker.root, place_of(made), cancel=cancel)
    assert error.value.reason is Reason.THAW_GIVEN_UP
    assert not list(worker.root.rglob("manifest.json"))
