"""What lies on shared storage beside an artifact, damaged or written by somebody else: refused with the store's own
error, or passed over, and never a file outside."""

import json
import shutil
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import msgspec
from blake3 import blake3
from fuzz.documents import changed, damaged, text, texts
from fuzz.limits import bounded, outside, touched
from fuzz.profile import PROFILE
from hypothesis import given
from hypothesis import strategies as st
from vernal_contract.identity import HostTuple, IdentityInputs, digest
from vernal_contract.reasons import Reason
from vernal_worker.store import artifact, contents, failures, lease, quarantine
from vernal_worker.store import manifest as manifests
from vernal_worker.store.contents import Contents
from vernal_worker.store.errors import StoreError, Touch
from vernal_worker.store.layout import Key
from vernal_worker.store.lease import LeaseRequest, Owner
from vernal_worker.store.manifest import FileEntry, Manifest
from vernal_worker.store.store import Store

GENERATION = "20261125T000000Z-00000000"
FILES = {"process/criu/pages-1.img": b"p" * 3000, "oracle.json": b"{}", "empty": b""}
IDENTITY = IdentityInputs(
    image_id="i", engine_args={"max_model_len": 4096}, engine_env={"A": "b"}, model="m", weights="w", versions={}
)
HOST = HostTuple(architecture="x86_64", cpu_features=("avx2",), kernel="6.18", mounts=("/models",))
NEVER = threading.Event()
KEY = Key(Path("/nowhere"), digest(IDENTITY), digest(HOST))
GOOD: dict[str, Any] = json.loads(
    msgspec.json.encode(
        Manifest(
            generation=GENERATION,
            identity=digest(IDENTITY),
            identity_inputs=IDENTITY,
            host_tuple=digest(HOST),
            host=HOST,
            files=tuple(
                FileEntry(path=name, size=len(data), blake3=(blake3(data).hexdigest(),) if data else ())
                for name, data in sorted(FILES.items())
            ),
            created="2026-11-25T00:00:00Z",
            created_by="p",
            timings={"criu": 1.5},
        )
    )
)


def framed(body: bytes) -> bytes:
    """As a manifest whose digest agrees, so that what is in it is looked at."""
    return b'{"digest":"%s","manifest":%s}\n' % (blake3(body).hexdigest().encode(), body)


def consistent(document: Any) -> Any:
    """With the digests of its own identity and host, where they can be had."""
    with suppress(Exception):
        document["identity"], document["hostTuple"] = digest(document["identityInputs"]), digest(document["host"])
    return document


documents = changed(GOOD)
bodies = documents.map(text) | documents.map(consistent).map(text) | texts(st.just(GOOD))
manifest_files = bodies.map(framed) | bodies.map(framed).flatmap(damaged) | st.binary(max_size=300)


@contextmanager
def a_generation(manifest: bytes) -> Iterator[Path]:
    """The directory of an artifact with this manifest, and the right files; a file outside that is as one of them."""
    root = Path(tempfile.mkdtemp(dir="/dev/shm", prefix="vernal-fuzz-"))
    try:
        directory = root / "a" / GENERATION
        for name, data in FILES.items():
            (directory / name).parent.mkdir(parents=True, exist_ok=True)
            (directory / name).write_bytes(data)
        (directory / manifests.NAME).write_bytes(manifest)
        (root / "outside").write_bytes(FILES["oracle.json"])
        yield directory
    finally:
        shutil.rmtree(root)


@PROFILE
@given(manifest_files)
def test_a_manifest_is_refused_or_means_the_same_after_writing_it(data: bytes) -> None:
    with bounded():
        try:
            found = manifests.decode(data, GENERATION)
        except StoreError as error:
            assert error.stage == "find" and error.generation == GENERATION
            assert error.reason in (Reason.MANIFEST_INVALID, Reason.FORMAT_UNSUPPORTED)
            return
        again = manifests.decode(manifests.encode(rewritten(found)), GENERATION)
        assert again == rewritten(found)
        manifests.fields(data)


def rewritten(manifest: Manifest) -> Manifest:
    """Without the fields that this release does not know, of which the digests go."""
    identity, host = digest(manifest.identity_inputs), digest(manifest.host)
    return msgspec.structs.replace(manifest, identity=identity, host_tuple=host)


@PROFILE
@given(manifest_files)
def test_only_files_of_the_artifact_are_read(data: bytes) -> None:
    with a_generation(data) as directory, bounded(), touched() as paths:
        try:
            found = artifact.load(directory)
            found.with_shared().ref()
            for entry in found.manifest.files[:5]:
                with suppress(StoreError):
                    found.read(entry.path)
                with suppress(StoreError):
                    found.verify_files([entry.path], timeout=60.0, cancel=NEVER)
            found.verify()
        except StoreError as error:
            assert error.reason in Reason
        assert not outside(paths, directory)


POINTERS = (
    "/etc", "..", "../../../..", ".", "current", "a\nb", "\udcff", GENERATION, "x" * 255, "/" + GENERATION, None, ""
)  # fmt: skip
"""What the link `current` may lead to; None for a file and "" for a directory in its place."""


@PROFILE
@given(st.sampled_from(POINTERS), st.booleans())
def test_a_pointer_leads_to_a_generation_beside_it_or_nowhere(target: str | None, sound: bool) -> None:
    root = Path(tempfile.mkdtemp(dir="/dev/shm", prefix="vernal-fuzz-"))
    key = Key(root, KEY.identity, KEY.host)
    try:
        key.directory.mkdir(parents=True)
        if sound:
            put(key.directory / GENERATION / manifests.NAME, framed(text(GOOD)))
        match target:
            case None:
                key.current.write_bytes(b"x")
            case "":
                key.current.mkdir()
            case _:
                key.current.symlink_to(target)
        store = Store(root)
        with bounded(), touched() as paths:
            for look in (store.artifacts, lambda: store.candidates(IDENTITY), lambda: store.find(IDENTITY, HOST)):
                with suppress(StoreError):
                    look()
            store.gc()
        assert not outside(paths, root)
    finally:
        shutil.rmtree(root)


RECORDS: dict[str, dict[str, Any]] = {
    "lease": {"token": "0" * 32, "owner": {"pod": "p", "node": "n"}},
    "failure": {"stage": "verify", "reason": "DigestMismatch", "message": "m", "worker": "w", "node": "n", "time": "t"},
    "content": {"content": "c", "samples": "s", "file": "f"},
    "quarantine": {"generation": GENERATION},
}


@PROFILE
@given(st.sampled_from(sorted(RECORDS)).flatmap(lambda name: st.tuples(st.just(name), texts(st.just(RECORDS[name])))))
def test_a_small_record_that_is_none_is_passed_over(record: tuple[str, bytes]) -> None:
    name, data = record
    root = Path(tempfile.mkdtemp(dir="/dev/shm", prefix="vernal-fuzz-"))
    key = Key(root, KEY.identity, KEY.host)
    try:
        with bounded():
            match name:
                case "lease":
                    put(key.lease, data)
                    assert lease.holder(key.lease) is not None
                    request = LeaseRequest(key, Owner(pod="me"), 0.0, Touch())  # who waits not at all may take it
                    with request.try_acquire() or request.try_acquire() or nothing() as held:
                        held.check()
                case "failure":
                    put(key.failures(GENERATION) / "a.json", data)
                    put(key.failures(GENERATION) / "b.json", text(RECORDS["failure"]))
                    assert RECORDS["failure"]["time"] in [found.time for found in failures.load(key, GENERATION)]
                case "content":
                    known = Contents(root)
                    put(known._path("k"), data)
                    known.get("k")
                    known.put("k", contents.Known(content="c", samples="s"))
                    assert known.get("k") == contents.Known(content="c", samples="s")
                case _:
                    put(key.directory / quarantine.NAME, data)
                    quarantine._read(key)
    finally:
        shutil.rmtree(root)


def nothing() -> Any:
    raise AssertionError("a lease that nobody keeps cannot be had")


def put(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
