"""`manifest.json`: what an artifact is and what its files must be.

The file is `{"digest":"<BLAKE3 of the manifest's bytes>","manifest":{...}}` and a newline, byte for byte, so that a
flipped bit anywhere in it is found. With a key there is `"signature":"<HMAC-SHA256 of the same bytes>"` after the
digest: then it is known, too, who wrote it, and with it every file that the manifest names.
"""

import hmac
import re
from collections.abc import Sequence
from typing import Any

import msgspec
from blake3 import blake3
from vernal_contract import decoding
from vernal_contract.identity import FORMAT_VERSION, HostTuple, IdentityInputs, digest
from vernal_contract.reasons import Reason

from vernal_worker.store import layout
from vernal_worker.store.errors import StoreError
from vernal_worker.store.pieces import count

NAME = "manifest.json"
_FRAME = re.compile(
    rb'\{"digest":"([0-9a-f]{64})",(?:"signature":"([0-9a-f]{64})",)?"manifest":(\{.*\})\}\n', re.DOTALL
)


class FileEntry(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    path: str  # relative, with slashes
    size: int
    blake3: tuple[str, ...]  # hex, one a piece of `pieces.PIECE` bytes; of an empty file none


class Manifest(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """Fields that a newer Vernal added are left out, but for the digests of identity and host tuple."""

    format_version: int = FORMAT_VERSION
    generation: str
    identity: str  # hex digest of identity_inputs
    identity_inputs: IdentityInputs
    host_tuple: str  # hex digest of host
    host: HostTuple
    files: tuple[FileEntry, ...]  # sorted by path
    created: str  # RFC 3339, by the creator's clock: for people
    created_by: str  # pod or whoever
    timings: dict[str, float] = {}


def encode(manifest: Manifest, key: bytes | None = None) -> bytes:
    """`key`: to sign it with."""
    body = msgspec.json.encode(manifest)
    signature = b'"signature":"%s",' % _signature(key, body) if key is not None else b""
    return b'{"digest":"%s",%s"manifest":%s}\n' % (blake3(body).hexdigest().encode(), signature, body)


def _signature(key: bytes, body: bytes) -> bytes:
    return hmac.digest(key, body, "sha256").hex().encode()


def decode(data: bytes, generation: str, key: bytes | None = None) -> Manifest:
    """Parse and check a manifest of `generation`. `key`: it must be signed with; None for whoever only looks.

    Raises:
        StoreError: stage find: `MANIFEST_INVALID`, or `FORMAT_UNSUPPORTED` if a newer Vernal wrote it.
    """
    frame = _FRAME.fullmatch(data)
    if frame is None or blake3(frame[3]).hexdigest().encode() != frame[1]:
        raise _error(Reason.MANIFEST_INVALID, generation, "its content does not agree with its digest")
    if key is not None and not hmac.compare_digest(frame[2] or b"", _signature(key, frame[3])):
        raise _error(Reason.MANIFEST_INVALID, generation, "it is not signed with this worker's key")
    try:
        given = decoding.json(frame[3], dict[str, Any])
        decoding.check_levels(given, NAME)
        version = given.get("formatVersion")
        if isinstance(version, int) and version > FORMAT_VERSION:
            message = f"format {version}, this worker reads up to {FORMAT_VERSION}"
            raise _error(Reason.FORMAT_UNSUPPORTED, generation, message)
        manifest = decoding.json(frame[3], Manifest)
    except msgspec.MsgspecError as e:
        raise _error(Reason.MANIFEST_INVALID, generation, str(e)) from e
    if (problem := _wrong_file(manifest.files)) is not None:
        raise _error(Reason.MANIFEST_INVALID, generation, problem)
    if manifest.generation != generation:
        raise _error(Reason.MANIFEST_INVALID, generation, f"it is that of generation {manifest.generation}")
    if (manifest.identity, manifest.host_tuple) != (digest(given["identityInputs"]), digest(given["host"])):
        raise _error(Reason.MANIFEST_INVALID, generation, "identity or host tuple do not agree with their digests")
    return manifest


def _wrong_file(files: Sequence[FileEntry]) -> str | None:
    """What no writer would have written: whoever reads files by a manifest opens nothing outside of its directory, and
    makes no more pieces of a file than the manifest has digests."""
    seen: set[str] = set()
    for entry in files:
        parts = entry.path.split("/")
        if "\0" in entry.path or not {"", ".", ".."}.isdisjoint(parts) or entry.path == NAME:
            return f"{entry.path!r} is no path below the artifact"
        if entry.path in seen:
            return f"it names a file twice: {entry.path!r}"
        if entry.size < 0 or len(entry.blake3) != count(entry.size):
            return f"{entry.path!r} has {len(entry.blake3)} digests for {entry.size} bytes"
        if not all(map(layout.is_digest, entry.blake3)):
            return f"{entry.path!r} has a digest that is none"
        seen.add(entry.path)
    return None


def fields(data: bytes) -> tuple[dict[str, Any], dict[str, Any]]:
    """Identity inputs and host of a manifest that `decode` has found to be sound, with the fields that are unknown."""
    frame = _FRAME.fullmatch(data)
    assert frame is not None
    given = decoding.json(frame[3], dict[str, Any])
    return given["identityInputs"], given["host"]


def _error(reason: Reason, generation: str, message: str) -> StoreError:
    return StoreError(reason, "find", f"{generation}/{NAME}: {message}", generation=generation)
