"""One KV block as a file: written whole or not at all, believed only after its digest was checked.

Layout, little-endian: magic (8 bytes), payload length (8), tokens (4), zero (4), layout fingerprint (32), key (32),
BLAKE3 digest of the payload (32), the first bytes of the BLAKE3 digest of what comes before (8); then the payload. The
digests find damage of any kind, but they are not keyed: who may write to the store is trusted. There are two, so that
the payload can be hashed by whoever has it next, a GPU say, and the header by whoever reads it.
"""

import contextlib
import errno
import os
import secrets
import struct
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from blake3 import blake3

MAGIC = b"VERNAL\x00\x02"  # the last byte is the format's version
_HEAD = struct.Struct("<8sQII32s32s")
_CHECK_BYTES = 8
DIGEST_BYTES = 32
HEADER_BYTES = _HEAD.size + DIGEST_BYTES + _CHECK_BYTES
SUFFIX = ".kv"
TEMPORARY_SUFFIX = ".tmp"


class Failure(StrEnum):
    """Why a block could not be loaded. The value is the `kind` label of the metric."""

    MISSING = "missing"  # also: it vanished between lookup and load
    PERMISSION = "permission"
    UNREADABLE = "unreadable"  # the storage, or this process, had an error: EIO, ESTALE, ETIMEDOUT, EMFILE, ENOMEM, ...
    SIZE = "size"
    FORMAT = "format"  # not a block file of this version
    SWAPPED = "swapped"  # a block, but of another prefix, model or layout
    CORRUPT = "corrupt"  # the digest says that a bit is wrong
    SLOW = "slow"  # not there when the deadline came
    SKIPPED = "skipped"  # not tried, because an earlier block of the same prefix failed
    CLOSED = "closed"  # the store is released, for a freeze or at the end
    INTERNAL = "internal"  # a bug of ours; the log has the traceback


WRONG = frozenset({Failure.SIZE, Failure.FORMAT, Failure.SWAPPED, Failure.CORRUPT})
"""Failures of files that were read to their end and are not the block: they go. No other failure says anything about
the file: the next worker may read it well."""

REWRITE = WRONG | {Failure.UNREADABLE, Failure.PERMISSION}
"""Failures after which whoever computes the block writes it again. A file that stays unreadable would otherwise fail
every request that wants it; one that was good is replaced by its equal."""


class BlockError(Exception):
    """A block could not be loaded, for the reason `failure`."""

    def __init__(self, failure: Failure, message: str) -> None:
        super().__init__(f"{failure}: {message}")
        self.failure = failure


@dataclass(frozen=True)
class Label:
    """What a block file says that it holds; a reader compares all of it with what it looks for.

    Attributes:
        fingerprint: 32 bytes, of model, layout and parallelism (`vernal_worker.kv.fingerprint`).
        key: 32 bytes, of the prompt's tokens up to the block's end (`vernal_worker.kv.keys`).
        tokens: number of tokens in the block.
        payload_bytes: length of what follows the header.
    """

    fingerprint: bytes
    key: bytes
    tokens: int
    payload_bytes: int

    def head(self) -> bytes:
        return _HEAD.pack(MAGIC, self.payload_bytes, self.tokens, 0, self.fingerprint, self.key)


class Files:
    """The system calls, and nothing else: what a test may replace to make storage fail."""

    def read(self, path: str | Path, header: bytearray, payload: memoryview) -> int:
        """Read the file's first bytes into `header` and the next into `payload`.

        Returns: how many bytes it has, by reading, of one that is longer than both perhaps one byte more: storage that
            gives all that is wanted and no more is not asked whether there is more.

        Raises:
            OSError: as the storage says.
        """
        beyond = bytearray(1)
        wanted = len(header) + len(payload)
        with _Opened(path, os.O_RDONLY | os.O_NONBLOCK) as fd:  # a FIFO in its place would hold the thread for ever
            done = count = os.preadv(fd, (header, payload, beyond), 0)
            while count and done < wanted:
                count = os.preadv(fd, _behind(done, header, payload, beyond), done)
                done += count
        return done

    def write(self, path: Path, header: bytes, payload: memoryview) -> None:
        """Make the file, which must not exist, with these bytes.

        Raises:
            OSError: as the storage says.
        """
        with _Opened(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL) as fd:
            for part in (memoryview(header), payload):
                left = part
                while left:
                    left = left[os.write(fd, left) :]


class _Opened:
    """An open file descriptor whose close may fail: NFS reports a full disk there."""

    def __init__(self, path: str | Path, flags: int) -> None:
        self._fd = os.open(path, flags | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)

    def __enter__(self) -> int:
        return self._fd

    def __exit__(self, *_: object) -> None:
        os.close(self._fd)


def _behind(done: int, *parts: bytearray | memoryview) -> list[memoryview]:
    """What is left of `parts` after the first `done` bytes."""
    left: list[memoryview] = []
    for part in parts:
        left += [memoryview(part)[done:]] if done < len(part) else []
        done = max(0, done - len(part))
    return left


def publish(path: Path, data: bytes) -> None:
    """Put a small file in place: readers see the whole of it, or what was there before.

    Raises:
        OSError: as the storage says.
    """
    temporary = _temporary(path, path.name)
    try:
        temporary.write_bytes(data)
        temporary.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise


def _temporary(path: Path, stem: str) -> Path:
    return path.with_name(f".{stem}-{secrets.token_hex(8)}{TEMPORARY_SUFFIX}")


def write(path: Path, label: Label, payload: memoryview, files: Files) -> None:
    """Write a block: readers see the whole of it under `path`, or nothing.

    Not synced to disk: after a power failure the digest tells whether the block survived.

    Raises:
        OSError: as the storage says (`ENOSPC`, `EDQUOT`, ...). Nothing stays behind, unless storage refuses that too.
    """
    header = label.head() + blake3(payload).digest()
    temporary = _temporary(path, path.stem[:16])
    try:
        files.write(temporary, header + _check(header), payload)
        temporary.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise


def read(path: str | Path, label: Label, into: memoryview, files: Files, *, verify: bool = True) -> bytes:
    """Read the block that `label` describes into `into`, which must be `label.payload_bytes` long.

    When this returns, `into` holds what was written under this label, bit for bit. When it raises, `into` holds
    anything.

    Args:
        verify: False leaves the payload to the caller: `into` holds that only if its digest is the one returned.

    Returns: the BLAKE3 digest of what was written.

    Raises:
        BlockError: in every other case, whatever the storage does.
    """
    header = bytearray(HEADER_BYTES)
    try:
        size = files.read(path, header, into)
    except OSError as error:
        raise BlockError(_failure(error), f"{path}: {error.strerror or error}") from error
    expected = HEADER_BYTES + label.payload_bytes
    if size != expected:
        raise BlockError(Failure.SIZE, f"{path} has {'more' if size > expected else size} bytes instead of {expected}")
    head = label.head()
    if not header.startswith(head):
        if not header.startswith(MAGIC):
            raise BlockError(Failure.FORMAT, f"{path} does not start like a block file of this version")
        raise BlockError(Failure.SWAPPED, f"{path} is labelled as another block")
    checked = bytes(header[:-_CHECK_BYTES])
    if header[-_CHECK_BYTES:] != _check(checked):
        raise BlockError(Failure.CORRUPT, f"{path}: the header's digest does not match")
    digest = checked[-DIGEST_BYTES:]
    if verify and blake3(into).digest() != digest:
        raise BlockError(Failure.CORRUPT, f"{path}: digest does not match")
    return digest


def _check(header: bytes) -> bytes:
    return blake3(header).digest()[:_CHECK_BYTES]


def _failure(error: OSError) -> Failure:
    match error.errno:
        case errno.ENOENT | errno.ENOTDIR:
            return Failure.MISSING
        case errno.EACCES | errno.EPERM:
            return Failure.PERMISSION
        case _:
            return Failure.UNREADABLE
