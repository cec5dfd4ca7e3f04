"""What lies in a bucket, damaged or written by somebody else: what comes of it is the artifact, whole, or the store's
own error, and nothing outside of the store."""

import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

import msgspec
from blake3 import blake3
from fuzz.documents import changed, text, texts
from fuzz.limits import bounded, outside, touched
from fuzz.profile import PROFILE
from hypothesis import given
from hypothesis import strategies as st
from vernal_contract.identity import HostTuple, IdentityInputs, digest
from vernal_contract.reasons import Reason
from vernal_worker.bucket import keys
from vernal_worker.bucket.collect import collect
from vernal_worker.bucket.keys import Place
from vernal_worker.bucket.objects import Objects
from vernal_worker.bucket.pull import pull
from vernal_worker.store.errors import StoreError
from vernal_worker.store.manifest import FileEntry, Manifest

FILES = {"process/a.img": b"p" * 3000, "oracle.json": b"{}", "empty": b""}
GENERATION, TOKEN = "20261125T000000Z-00000000", "0" * 8
PUBLICATION = keys.publication(GENERATION, TOKEN)
IDENTITY = IdentityInputs(image_id="i", engine_args={}, engine_env={}, model="m", weights="w", versions={})
HOST = HostTuple(architecture="x86_64", cpu_features=("avx2",), kernel="6.18")
PLACE = Place.of(digest(IDENTITY), digest(HOST))
DIGESTS = {name: blake3(data).hexdigest() for name, data in FILES.items()}
MANIFEST: dict[str, Any] = json.loads(
    msgspec.json.encode(
        Manifest(
            generation=GENERATION,
            identity=digest(IDENTITY),
            identity_inputs=IDENTITY,
            host_tuple=digest(HOST),
            host=HOST,
            files=tuple(
                FileEntry(path=name, size=len(data), blake3=(DIGESTS[name],) if data else ())
                for name, data in sorted(FILES.items())
            ),
            created="2026-11-25T00:00:00Z",
            created_by="p",
        )
    )
)
PIECES = {TOKEN: [DIGESTS[name] for name, data in FILES.items() if data]}


def framed(body: bytes) -> bytes:
    return b'{"digest":"%s","manifest":%s}\n' % (blake3(body).hexdigest().encode(), body)


def publication(manifest: bytes) -> dict[str, Any]:
    return {"manifest": manifest.decode("utf-8", "replace"), "pieces": PIECES}


whole = st.just(publication(framed(text(MANIFEST))))
of_a_changed_manifest = changed(MANIFEST).map(text).map(framed).map(publication).map(text)
pointers = st.just(text({"publication": PUBLICATION})) | texts(st.just({"publication": PUBLICATION}))


@PROFILE
@given(
    whole.map(text) | of_a_changed_manifest | texts(whole),
    pointers,
    st.sampled_from((b"", b"short", b"x" * 9000, None)),
)
def test_what_is_pulled_is_the_artifact_or_nothing(data: bytes, pointer: bytes, piece: bytes | None) -> None:
    """`piece`: what one of the files' has instead of its bytes."""
    objects = Objects("memory:///")
    for name, content in FILES.items():
        objects.put(keys.piece(DIGESTS[name], TOKEN), content, "test")
    if piece is not None:
        objects.put(keys.piece(DIGESTS["oracle.json"], TOKEN), piece, "test")
    objects.put(PLACE.manifest(PUBLICATION), data, "test")
    objects.put(PLACE.current, pointer, "test")
    root = Path(tempfile.mkdtemp(dir="/dev/shm", prefix="vernal-fuzz-"))
    try:
        with bounded(), touched() as paths:
            try:
                found = pull(objects, root, PLACE, threads=1).artifact
            except StoreError as error:
                assert error.reason in Reason
            else:
                found.verify()
            collect(objects)
        assert not outside(paths, root)
        assert list((root / "staging").glob("*")) == []
    finally:
        shutil.rmtree(root)
