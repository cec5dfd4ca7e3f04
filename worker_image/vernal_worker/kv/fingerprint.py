"""Which blocks may be shared: those of workers that would have computed the same bytes.

The fingerprint covers everything about a worker that a block's content depends on. Two workers share blocks exactly if
their fingerprints are equal; one that differs more than it need costs hits, one that differs too little costs a wrong
answer, so in doubt a field is in.
"""

import json
import struct
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from blake3 import blake3

FINGERPRINT_BYTES = 32
_CONTEXT = "vernal 2025 kv layout fingerprint v2"
_SAMPLE = 4096  # bytes
_SAMPLES = 256  # per file: each is a random read, which shared storage may answer in a millisecond
_WEIGHTS = frozenset({".safetensors", ".bin", ".pt", ".pth", ".gguf"})
_TEXTS = frozenset({".json"})
_LONGEST_TEXT = 64 << 20  # an index of a large model has a few MiB


class UnidentifiableError(Exception):
    """Nothing says which weights a model has; the message says what to do."""


def fingerprint(facts: Mapping[str, Any]) -> bytes:
    """BLAKE3 over the canonical JSON of `facts`."""
    return blake3(canonical(facts), derive_key_context=_CONTEXT).digest()


def canonical(facts: Mapping[str, Any]) -> bytes:
    """JSON with sorted keys; what JSON cannot say is there as its string."""
    return json.dumps(facts, sort_keys=True, separators=(",", ":"), default=str).encode()


def directory_identity(directory: Path, *, weights: bool = True) -> str:
    """Identity of a model or adapter in a directory: `dir:<hex>`, or `hub:<hex>` in the Hugging Face cache.

    In the Hugging Face cache a file is a link to a blob that is named by its content, and the names are hashed.
    Elsewhere the hash covers each file's name, size and modification time, JSON files whole, and of each weight file
    the head and samples at even distances. The modification time is there because samples cannot see an edit of a few
    values in place; the same directory mounted in many pods has the same times.

    Args:
        weights: there must be weights. False for a model whose weights come from elsewhere.

    Raises:
        UnidentifiableError: no such directory, it cannot be read, or it has no weights.
    """
    try:
        files = _files(directory)
        if weights and not any(path.suffix in _WEIGHTS for path in files):
            raise UnidentifiableError(
                f"{directory} has no weights ({', '.join(sorted(_WEIGHTS))}): say which they are with "
                "kv_connector_extra_config.model_digest"
            )
        blobs = [(path.name, path.resolve()) for path in files]
        if files and all(blob.parent.name == "blobs" for _, blob in blobs):
            return "hub:" + blake3(canonical({name: blob.name for name, blob in blobs})).hexdigest()
        hasher = blake3()
        for path in files:
            status = path.stat()
            hasher.update(canonical({"name": path.name, "size": status.st_size, "mtime": status.st_mtime_ns}))
            for part in _parts(path, status.st_size):
                hasher.update(part)
    except OSError as error:
        raise _unreadable(directory, error) from error
    return "dir:" + hasher.hexdigest()


def files_state(directory: Path) -> list[tuple[str, int, int]]:
    """Names, sizes and times of the files that `directory_identity` looks at: cheap, and another after most changes.

    Raises:
        UnidentifiableError: as `directory_identity`.
    """
    try:
        return [(path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in _files(directory)]
    except OSError as error:
        raise _unreadable(directory, error) from error


def _files(directory: Path) -> list[Path]:
    return sorted(path for path in directory.iterdir() if path.suffix in _WEIGHTS | _TEXTS)


def _unreadable(directory: Path, error: OSError) -> UnidentifiableError:
    return UnidentifiableError(
        f"cannot read {error.filename or directory}: {error.strerror}; the shared KV cache needs the model's "
        "files, or kv_connector_extra_config.model_digest"
    )


def _parts(path: Path, size: int) -> Iterator[bytes]:
    if path.suffix in _TEXTS:
        if size <= _LONGEST_TEXT:
            yield path.read_bytes()
        return
    with path.open("rb", buffering=0) as file:
        for part in _ranges(file.read(8), size):
            file.seek(part.start)
            yield file.read(len(part))


def _ranges(start: bytes, size: int) -> Iterator[range]:
    """What to read of a weight file: its head (of safetensors, names and shapes of all tensors), then samples."""
    (length,) = struct.unpack("<Q", start) if len(start) == 8 else (0,)
    looks_like_safetensors = 0 < length <= min(size - 8, 100 << 20)  # the format's own limit
    head = 8 + length if looks_like_safetensors else min(size, _SAMPLE)
    yield range(head)
    distance = max(_SAMPLE, (size - head) // _SAMPLES)
    yield from (range(at, min(at + _SAMPLE, size)) for at in range(head, size, distance))
