"""No damage to a published artifact goes unnoticed."""

import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from patience import GUARD_SECONDS
from vernal_contract.config import Verify
from vernal_contract.reasons import Reason
from vernal_worker.store import artifact as artifacts
from vernal_worker.store.artifact import Artifact
from vernal_worker.store.errors import StoreError
from vernal_worker.store.pieces import PIECE, hash_all


@pytest.fixture
def artifact(store: Any, identity: Any, host: Any, filled: Any) -> Artifact:
    published: Artifact = filled(store.stage(identity, host)).publish(created_by="test").artifact
    return published


def refused(artifact: Artifact, level: Verify = Verify.FULL, **options: Any) -> StoreError:
    with pytest.raises(StoreError) as e:
        artifact.verify(level, **options)
    assert e.value.generation == artifact.generation
    return e.value


def test_untouched(artifact: Artifact) -> None:
    seen: list[tuple[int, int]] = []
    artifact.verify(on_progress=lambda done, total: seen.append((done, total)))
    assert artifact.ref().files == 4
    assert artifact.ref().bytes == 3101
    assert all(total == 3101 for _, total in seen)


def test_flipped_bit_at_start_middle_and_end_of_every_file(
    artifact: Artifact, store: Any, identity: Any, host: Any
) -> None:
    paths = [path for path in artifact.path.rglob("*") if path.is_file() and path.stat().st_size]
    assert len(paths) == 4
    for path in paths:
        data = path.read_bytes()
        for position in (0, len(data) // 2, len(data) - 1):
            for bit in (1, 128):
                damaged = bytearray(data)
                damaged[position] ^= bit
                path.write_bytes(damaged)
                if path.name == "manifest.json":
                    with pytest.raises(StoreError, match=r"manifest\.json: its content does not agree") as e:
                        store.find(identity, host)
                    assert (e.value.reason, e.value.generation) == (Reason.MANIFEST_INVALID, artifact.generation)
                else:
                    error = refused(artifact)
                    assert error.reason == Reason.DIGEST_MISMATCH
                    assert str(path.relative_to(artifact.path)) in error.message
                    artifact.verify(Verify.SIZES)
        path.write_bytes(data)
    artifact.verify()


def drop(path: Path) -> None:
    path.unlink()


def shorten(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def lengthen(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b"\0")


def link(path: Path) -> None:
    path.rename(path.with_name("elsewhere"))
    path.symlink_to("elsewhere")


def be_directory(path: Path) -> None:
    path.unlink()
    path.mkdir()


@pytest.mark.parametrize("level", Verify)
@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (drop, Reason.FILE_MISSING),
        (shorten, Reason.FILE_SIZE_MISMATCH),
        (lengthen, Reason.FILE_SIZE_MISMATCH),
        (link, Reason.FILE_MISSING),
        (be_directory, Reason.FILE_MISSING),
    ],
)
def test_missing_and_misshapen_files(
    artifact: Artifact, damage: Callable[[Path], None], reason: Reason, level: Verify
) -> None:
    damage(artifact.path / "process" / "process.json")
    error = refused(artifact, level)
    assert (error.reason, error.stage) == (reason, "verify")
    assert "process/process.json" in error.message


def test_extra_files(artifact: Artifact) -> None:
    (artifact.path / "process" / "more").touch()
    error = refused(artifact, Verify.SIZES)
    assert error.reason == Reason.DIGEST_MISMATCH
    assert "process/more is there" in error.message


def test_big_files_are_hashed_in_pieces(store: Any, identity: Any, host: Any) -> None:
    staging = store.stage(identity, host)
    with (staging.dir / "pages").open("wb") as f:
        f.truncate(2 * PIECE + 5)
    artifact = staging.publish(created_by="test", threads=3).artifact
    assert [len(entry.blake3) for entry in artifact.manifest.files] == [3]
    artifact.verify()
    with (artifact.path / "pages").open("r+b") as f:
        f.seek(PIECE + 7)
        f.write(b"\1")
    error = refused(artifact)
    assert f"pages (bytes {PIECE} to {2 * PIECE})" in error.message


def test_giving_up(artifact: Artifact, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also when a read never returns, as on NFS without its server."""
    hang = threading.Event()
    monkeypatch.setattr("vernal_worker.store.pieces._hash", lambda *_: hang.wait(GUARD_SECONDS) and "")
    assert refused(artifact, timeout=0.2).reason == Reason.STORE_SLOW
    cancel = threading.Event()
    cancel.set()
    assert refused(artifact, cancel=cancel).reason == Reason.THAW_GIVEN_UP
    hang.set()


def test_a_generation_moved_elsewhere_is_not_taken(
    artifact: Artifact, store: Any, identity: Any, other_host: Any
) -> None:
    other = store.stage(identity, other_host)
    (other.dir / "x").touch()
    place = other.publish(created_by="test").artifact.path
    shutil.rmtree(place)
    shutil.copytree(artifact.path, place)
    with pytest.raises(StoreError, match="it is that of generation") as e:
        store.find(identity, other_host)
    assert e.value.reason == Reason.MANIFEST_INVALID
    copy = place.with_name(artifact.generation)
    place.rename(copy)
    (place.parent / "current").unlink()
    (place.parent / "current").symlink_to(copy.name)
    assert artifacts.load(copy).generation == artifact.generation
    with pytest.raises(StoreError, match="another identity or host tuple"):
        store.find(identity, other_host)


@pytest.mark.parametrize("moment", ["before", "while its bytes are read"])
def test_an_artifact_that_is_deleted(artifact: Artifact, moment: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """By garbage collection, or by a person: its files are missing, and nothing is wrong with the storage."""
    if moment == "before":
        shutil.rmtree(artifact.path)
    else:
        read = hash_all

        def delete_and_read(*arguments: Any, **options: Any) -> None:
            shutil.rmtree(artifact.path)
            read(*arguments, **options)

        monkeypatch.setattr(artifacts, "hash_all", delete_and_read)
    assert refused(artifact).reason is Reason.FILE_MISSING
