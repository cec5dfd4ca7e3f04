"""Every manifest that is written is read back equal; one that was changed in any way is refused."""

from typing import Any

import msgspec
import pytest
from blake3 import blake3
from hypothesis import given, settings
from hypothesis import strategies as st
from vernal_contract.identity import HostTuple, IdentityInputs, differences, digest
from vernal_contract.reasons import Reason
from vernal_worker.store import manifest as manifests
from vernal_worker.store.errors import StoreError
from vernal_worker.store.manifest import FileEntry, Manifest
from vernal_worker.store.pieces import PIECE, pieces

text = st.text(max_size=20)
scalars = st.none() | st.booleans() | st.integers(-(2**53), 2**53) | text
identities = st.builds(
    IdentityInputs,
    image_id=text,
    engine_args=st.dictionaries(text, scalars | st.lists(scalars, max_size=3), max_size=4),
    engine_env=st.dictionaries(text, text, max_size=3),
    model=text,
    model_revision=st.none() | text,
    weights=text,
    versions=st.dictionaries(text, text, max_size=3),
)
hosts = st.builds(
    HostTuple,
    architecture=text,
    cpu_features=st.lists(text, max_size=4).map(tuple),
    kernel=text,
    gpu_product=st.none() | text,
    gpu_count=st.integers(0, 8),
    mounts=st.lists(text, max_size=3).map(tuple),
)
names = st.text(max_size=20).filter(lambda name: name not in ("", ".", "..") and not set("\0/").intersection(name))
paths = st.lists(names, min_size=1, max_size=3).map("/".join).filter(lambda path: path != manifests.NAME)
sizes = st.integers(0, 2 * PIECE)


def entry(path: str, size: int) -> FileEntry:
    return FileEntry(path=path, size=size, blake3=tuple("0" * 64 for _ in pieces(path, size)))


files = st.dictionaries(paths, sizes, max_size=4).map(lambda found: (found.keys(), found.values()))


@st.composite
def some_manifest(draw: st.DrawFn) -> Manifest:
    identity, host = draw(identities), draw(hosts)
    return Manifest(
        generation=draw(text),
        identity=digest(identity),
        identity_inputs=identity,
        host_tuple=digest(host),
        host=host,
        files=tuple(map(entry, *draw(files))),
        created=draw(text),
        created_by=draw(text),
        timings=draw(st.dictionaries(text, st.floats(0, 1e6), max_size=3)),
    )


@settings(deadline=None)
@given(some_manifest())
def test_round_trip(manifest: Manifest) -> None:
    assert manifests.decode(manifests.encode(manifest), manifest.generation) == manifest


@settings(deadline=None)
@given(some_manifest(), st.data())
def test_changed_bytes_are_refused(manifest: Manifest, data: st.DataObject) -> None:
    written = manifests.encode(manifest)
    bit = data.draw(st.integers(0, 8 * len(written) - 1))
    damaged = bytearray(written)
    damaged[bit // 8] ^= 1 << bit % 8
    cut = written[: data.draw(st.integers(0, len(written) - 1))]
    for wrong in (bytes(damaged), cut, written + b"\n", b""):
        with pytest.raises(StoreError) as e:
            manifests.decode(wrong, manifest.generation)
        assert e.value.reason == Reason.MANIFEST_INVALID


def test_every_bit_of_one_manifest() -> None:
    identity = IdentityInputs(image_id="i", engine_args={}, engine_env={}, model="m", weights="w", versions={})
    host = HostTuple(architecture="a", cpu_features=(), kernel="k")
    manifest = Manifest(
        generation="g",
        identity=digest(identity),
        identity_inputs=identity,
        host_tuple=digest(host),
        host=host,
        files=(FileEntry(path="p", size=1, blake3=("0" * 64,)),),
        created="",
        created_by="",
    )
    written = manifests.encode(manifest)
    for bit in range(8 * len(written)):
        damaged = bytearray(written)
        damaged[bit // 8] ^= 1 << bit % 8
        with pytest.raises(StoreError):
            manifests.decode(bytes(damaged), "g")


def test_what_a_newer_vernal_wrote_is_told_apart_from_damage() -> None:
    from blake3 import blake3

    body = b'{"formatVersion":2,"somethingNew":[]}'
    newer = b'{"digest":"%s","manifest":%s}\n' % (blake3(body).hexdigest().encode(), body)
    with pytest.raises(StoreError, match="format 2, this worker reads up to 1") as e:
        manifests.decode(newer, "g")
    assert e.value.reason == Reason.FORMAT_UNSUPPORTED


@given(some_manifest())
def test_a_manifest_of_a_newer_minor_version_is_read(manifest: Manifest) -> None:
    """Its new fields are left out, but not of what it is found by: that is named when the two are compared."""
    given_ = msgspec.json.decode(msgspec.json.encode(manifest))
    for place in (given_, given_["identityInputs"], given_["host"], *given_["files"]):
        place["invented"] = {"x": 1}
    given_ |= {"identity": digest(given_["identityInputs"]), "hostTuple": digest(given_["host"])}
    body = msgspec.json.encode(given_)
    data = b'{"digest":"%s","manifest":%s}\n' % (blake3(body).hexdigest().encode(), body)
    found = manifests.decode(data, manifest.generation)
    assert (found.identity_inputs, found.host, found.files) == (manifest.identity_inputs, manifest.host, manifest.files)
    identity, host = manifests.fields(data)
    assert differences(identity, manifest.identity_inputs) == ["invented: artifact has {'x': 1}, this host has nothing"]
    assert differences(host, manifest.host) != []


def framed(body: bytes) -> bytes:
    return b'{"digest":"%s","manifest":%s}\n' % (blake3(body).hexdigest().encode(), body)


IDENTITY = IdentityInputs(image_id="i", engine_args={}, engine_env={}, model="m", weights="w", versions={})
HOST = HostTuple(architecture="a", cpu_features=(), kernel="k")


def with_files(*found: FileEntry, identity: IdentityInputs = IDENTITY) -> bytes:
    return manifests.encode(
        Manifest(
            generation="g",
            identity=digest(identity),
            identity_inputs=identity,
            host_tuple=digest(HOST),
            host=HOST,
            files=found,
            created="",
            created_by="",
        )
    )


def nested(levels: int) -> Any:
    value: list[Any] = []
    for _ in range(levels):
        value = [value]
    return value


WRONG: dict[str, Any] = {
    "text that is no UTF-8": (framed(b'{"generation":"\xff"}'), "UTF-8"),
    "lists without end": (framed(b'{"x":' + b"[" * 10_000 + b"]" * 10_000 + b"}"), "deep"),
    "what Python can just read and not compare": (
        with_files(identity=msgspec.structs.replace(IDENTITY, engine_args={"x": nested(300)})),
        "deeper than 64 levels",
    ),
    "a file outside": (with_files(entry("../../outside", 5)), "is no path below the artifact"),
    "an absolute path": (with_files(entry("/etc/shadow", 5)), "is no path below the artifact"),
    "a path with a NUL": (with_files(entry("a\0b", 5)), "is no path below the artifact"),
    "no name": (with_files(entry("", 0)), "is no path below the artifact"),
    "the manifest itself": (with_files(entry("manifest.json", 5)), "is no path below the artifact"),
    "a file twice": (with_files(entry("a", 5), entry("a", 7)), "names a file twice"),
    "a size below zero": (with_files(FileEntry(path="a", size=-1, blake3=())), "0 digests for -1 bytes"),
    "a digest too many": (
        with_files(FileEntry(path="a", size=1, blake3=("0" * 64, "1" * 64))),
        "2 digests for 1 bytes",
    ),
    "a digest that is a path": (
        with_files(FileEntry(path="a", size=1, blake3=("../" + "0" * 61,))),
        "digest that is none",
    ),
    "a size that lies": (with_files(FileEntry(path="a", size=2**62, blake3=("0",))), "1 digests for"),
}


@pytest.mark.parametrize(("data", "why"), WRONG.values(), ids=WRONG)
def test_what_no_writer_writes_is_refused(data: bytes, why: str) -> None:
    with pytest.raises(StoreError, match=why) as e:
        manifests.decode(data, "g")
    assert e.value.reason == Reason.MANIFEST_INVALID
