"""`manifest.json`: what an artifact is and what its files must be."""

import msgspec
from thaw_contract.identity import FORMAT_VERSION, HostTuple, IdentityInputs

NAME = "manifest.json"
PIECE = 64 << 20
"""Files are hashed in pieces of this size, so that one big file is read and hashed by many threads."""


class FileEntry(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, rename="camel"):
    path: str  # relative, with slashes
    size: int
    mode: int
    blake3: tuple[str, ...]  # hex, one a piece of `PIECE` bytes; of an empty file none


class Manifest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, rename="camel"):
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
