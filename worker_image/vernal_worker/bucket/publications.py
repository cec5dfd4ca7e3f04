"""What is published: a manifest, and which objects hold its pieces."""

from dataclasses import dataclass

import msgspec
from vernal_contract import decoding
from vernal_contract.reasons import Reason

from vernal_worker.bucket import keys
from vernal_worker.bucket.keys import Place
from vernal_worker.bucket.objects import Objects
from vernal_worker.store import layout, manifest
from vernal_worker.store.errors import StoreError
from vernal_worker.store.manifest import Manifest


class _Content(msgspec.Struct, frozen=True, kw_only=True):
    manifest: str  # byte for byte as in the store, where it may be signed
    pieces: dict[str, list[str]]  # digests by the token of who uploaded them


@dataclass(frozen=True)
class Publication:
    """`data`: the manifest's bytes; `objects`: by digest, the key of each of its pieces."""

    manifest: Manifest
    data: bytes
    objects: dict[str, str]


def encode(data: bytes, objects: dict[str, str]) -> bytes:
    """`data`: the manifest's bytes; `objects`: as in `Publication`."""
    by_token: dict[str, list[str]] = {}
    for digest, key in sorted(objects.items()):
        found = keys.read_piece(key)
        assert found is not None and found.digest == digest
        by_token.setdefault(found.token, []).append(digest)
    return msgspec.json.encode(_Content(manifest=data.decode(), pieces=by_token))


def load(objects: Objects, place: Place, publication: str, stage: str, signing_key: bytes | None = None) -> Publication:
    """One whose files may be written below a directory.

    Raises:
        StoreError: `MANIFEST_MISSING`, `MANIFEST_INVALID`, `FORMAT_UNSUPPORTED`, `OBJECT_STORE_UNAVAILABLE`.
    """
    generation = keys.generation_of(publication)
    key = place.manifest(publication)
    read = objects.get(key, stage)
    if read is None:
        raise StoreError(Reason.MANIFEST_MISSING, stage, f"{objects.url}/{key} is missing", generation=generation)
    try:
        found = decoding.json(read.data, _Content)
    except msgspec.DecodeError as error:
        raise _invalid(generation, f"{key}: {error}") from error
    data = found.manifest.encode()
    content = manifest.decode(data, generation, signing_key)
    if (content.identity, content.host_tuple[: layout.HOST_DIGITS]) != (place.identity, place.host):
        raise _invalid(generation, "it is of another identity or host tuple")
    by_digest = {digest: keys.piece(digest, token) for token, digests in found.pieces.items() for digest in digests}
    for digest in wanted(content):
        if keys.read_piece(by_digest.get(digest, "")) is None:
            raise _invalid(generation, f"it does not say where piece {digest} is")
    return Publication(content, data, by_digest)


def wanted(content: Manifest) -> set[str]:
    """Digests of all its pieces."""
    return {digest for entry in content.files for digest in entry.blake3}


def _invalid(generation: str, message: str) -> StoreError:
    return StoreError(Reason.MANIFEST_INVALID, "find", f"{generation}: {message}", generation=generation)
