"""A published artifact."""

import builtins
import os
import threading
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import msgspec
from blake3 import blake3
from msgspec.structs import replace
from vernal_contract.config import Verify
from vernal_contract.reasons import Reason
from vernal_contract.state import ArtifactRef

from vernal_worker.store import manifest as manifests
from vernal_worker.store.errors import StoreError, guard
from vernal_worker.store.manifest import FileEntry, Manifest
from vernal_worker.store.pieces import PIECE, Piece, hash_all, pieces


class Artifact(msgspec.Struct, frozen=True, eq=False):
    """A generation in the store; `path` is its directory."""

    path: Path
    manifest: Manifest
    shared_bytes: int = 0
    """Of files that another artifact had too when `with_shared` looked: this makes no other artifact of it."""

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Artifact) and (self.path, self.manifest) == (other.path, other.manifest)

    def __hash__(self) -> int:
        return hash((self.path, self.manifest))

    @property
    def generation(self) -> str:
        return self.manifest.generation

    @property
    def bytes(self) -> int:
        return sum(entry.size for entry in self.manifest.files)

    def digests(self, file: str) -> tuple[str, ...]:
        """Of the pieces of one file. Raises: KeyError: there is none of this name."""
        return {entry.path: entry.blake3 for entry in self.manifest.files}[file]

    def sizes(self, directory: str) -> dict[str, int]:
        """Bytes of the files right in a directory of the artifact, by their names."""
        paths = {Path(entry.path): entry.size for entry in self.manifest.files}
        return {path.name: size for path, size in paths.items() if path.parent == Path(directory)}

    def read(self, file: str) -> builtins.bytes:
        """A small file's content, if it is what was written.

        Raises:
            StoreError: stage verify: `FILE_MISSING`, `DIGEST_MISMATCH`, `STORE_UNAVAILABLE`.
        """
        wanted = {entry.path: entry for entry in self.manifest.files}.get(file)
        try:
            with guard("verify"):
                data = (self.path / file).read_bytes()
        except StoreError as error:
            if not isinstance(error.__cause__, FileNotFoundError):
                raise
            wanted = None
        if wanted is None:
            raise self._error(Reason.FILE_MISSING, f"{file} is missing")
        cut = [data[at : at + PIECE] for at in range(0, len(data), PIECE)]
        if tuple(blake3(piece).hexdigest() for piece in cut) != wanted.blake3:
            raise self._error(Reason.DIGEST_MISMATCH, f"{file} has other bytes than were written")
        return data

    def ref(self) -> ArtifactRef:
        """For `GET /state`."""
        return ArtifactRef(
            identity=self.manifest.identity,
            generation=self.generation,
            host_tuple=self.manifest.host_tuple,
            bytes=self.bytes,
            files=len(self.manifest.files),
            shared_bytes=self.shared_bytes,
        )

    def with_shared(self) -> "Artifact":
        """The same, with `shared_bytes` looked up; as it is if the storage does not tell."""
        shared = 0
        with suppress(OSError):
            for entry in self.manifest.files:
                links = (self.path / entry.path).lstat().st_nlink
                shared += entry.size if links > 2 else 0  # its own, the blob's, another artifact's
            return replace(self, shared_bytes=shared)
        return self

    def verify(
        self,
        level: Verify = Verify.FULL,
        *,
        except_content: Collection[str] = (),
        threads: int | None = None,
        timeout: float | None = None,
        cancel: threading.Event | None = None,
        on_progress: Callable[[int, int], None] | None = None,
    ) -> None:
        """Check presence, kind and size of every file, that there is no other file, and (`FULL`) every byte.

        Reads through the page cache and so leaves it warm for CRIU.

        Args:
            except_content: files whose bytes the caller checks itself.
            threads: None for one a core, 16 at most.
            timeout: give up after so many seconds, even if the storage hangs.
            cancel: give up when set.
            on_progress: called now and then in the caller's thread with bytes done and bytes in all.

        Raises:
            StoreError: stage verify: `FILE_MISSING`, `FILE_SIZE_MISMATCH`, `DIGEST_MISMATCH` (also for a file that the
                manifest lacks), `STORE_SLOW` (timeout), `THAW_GIVEN_UP` (cancelled),
                `STORE_UNAVAILABLE`; the message names the file.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        with guard("verify"), self._nothing_missing():
            self._check_sizes()
            if level is Verify.SIZES:
                return
            entries = [entry for entry in self.manifest.files if entry.path not in except_content]
            total = sum(entry.size for entry in entries)

            def tick(done: int) -> None:
                if on_progress:
                    on_progress(done, total)
                if cancel is not None and cancel.is_set():
                    raise self._error(Reason.THAW_GIVEN_UP, "cancelled")
                if deadline is not None and time.monotonic() > deadline:
                    raise self._error(Reason.STORE_SLOW, f"{done} of {total} bytes read in {timeout:g} s")

            self._compare(entries, threads, tick)

    def verify_files(self, names: Collection[str], *, timeout: float, cancel: threading.Event) -> None:
        """Check every byte of some files, whatever the others are like.

        Raises:
            StoreError: as `verify`.
        """
        deadline = time.monotonic() + timeout

        def tick(done: int) -> None:
            if cancel.is_set():
                raise self._error(Reason.THAW_GIVEN_UP, "cancelled")
            if time.monotonic() > deadline:
                raise self._error(Reason.STORE_SLOW, f"{done} bytes read in {timeout:g} s")

        with guard("verify"), self._nothing_missing():
            self._compare([entry for entry in self.manifest.files if entry.path in names], None, tick)

    def _compare(self, entries: Sequence[FileEntry], threads: int | None, tick: Callable[[int], None]) -> None:
        expected = {
            piece: digest
            for entry in entries
            for piece, digest in zip(pieces(entry.path, entry.size), entry.blake3, strict=True)
        }

        def found(piece: Piece, digest: str) -> None:
            if digest != expected[piece]:
                raise self._error(Reason.DIGEST_MISMATCH, f"{piece} has other bytes than were written")

        hash_all(self.path, list(expected), found, threads=threads, tick=tick)

    @contextmanager
    def _nothing_missing(self) -> Iterator[None]:
        """Somebody may delete the artifact while it is read."""
        try:
            yield
        except FileNotFoundError as error:
            raise self._error(Reason.FILE_MISSING, f"{error.filename} is missing") from error

    def _check_sizes(self) -> None:
        there = list_files(self.path)
        there.pop(manifests.NAME, None)
        for entry in self.manifest.files:
            size = there.pop(entry.path, None)
            if size is None:
                raise self._error(Reason.FILE_MISSING, f"{entry.path} is missing")
            if size != entry.size:
                message = f"{entry.path} has {size} bytes instead of {entry.size}"
                raise self._error(Reason.FILE_SIZE_MISMATCH, message)
        if there:
            message = f"{min(there)} is there, but not in the manifest"
            raise self._error(Reason.DIGEST_MISMATCH, message)

    def _error(self, reason: Reason, message: str) -> StoreError:
        return StoreError(reason, "verify", f"{self.generation}/{message}", generation=self.generation)


def list_files(directory: Path) -> dict[str, int | None]:
    """Every file below `directory` by relative path, with its size, or None if it is not a regular file."""
    found: dict[str, int | None] = {}
    pending = [""]
    while pending:
        prefix = pending.pop()
        with os.scandir(directory / prefix) as entries:
            for entry in entries:
                name = f"{prefix}{entry.name}"
                if entry.is_dir(follow_symlinks=False):
                    pending.append(f"{name}/")
                else:
                    regular = entry.is_file(follow_symlinks=False)
                    found[name] = entry.stat(follow_symlinks=False).st_size if regular else None
    return found


def load(directory: Path, key: bytes | None = None) -> Artifact:
    """The artifact in a generation's directory. `key`: see `manifest.decode`.

    Raises:
        StoreError: stage find: `MANIFEST_MISSING`, `MANIFEST_INVALID`, `FORMAT_UNSUPPORTED`.
        OSError: the storage cannot be read.
    """
    generation = directory.name
    try:
        data = (directory / manifests.NAME).read_bytes()
    except FileNotFoundError as e:
        message = f"{generation}/{manifests.NAME} is missing"
        raise StoreError(Reason.MANIFEST_MISSING, "find", message, generation=generation) from e
    return Artifact(directory, manifests.decode(data, generation, key))
