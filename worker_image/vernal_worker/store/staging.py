"""Writing an artifact: a private directory first, then one rename and one pointer."""

import os
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from vernal_contract.identity import HostTuple, IdentityInputs
from vernal_contract.reasons import Reason
from vernal_contract.state import FreezeOutcome

from vernal_worker.parallel import aside, for_each
from vernal_worker.store import artifact as artifacts
from vernal_worker.store import fs, layout, manifest
from vernal_worker.store.artifact import Artifact
from vernal_worker.store.blobs import share
from vernal_worker.store.errors import StoreError, Touch, guard
from vernal_worker.store.layout import Key
from vernal_worker.store.lease import Held
from vernal_worker.store.pieces import default_threads, hash_all, pieces
from vernal_worker.store.reading import use

_SIGN_SECONDS = 60.0
"""So often a staging that is only read, to be hashed, shows the collector that somebody is at it."""

_MOVE_SECONDS = 30.0
"""For the renames that end a publication, on top of its time: they are not interrupted otherwise."""


@dataclass(frozen=True)
class Publication:
    """`artifact` is what is current now: ours (`PUBLISHED`) or the other worker's (`PUBLISHED_BY_OTHER`)."""

    outcome: FreezeOutcome
    artifact: Artifact


class Staging:
    """An artifact being written: put files under `dir`, then `publish` or `discard`."""

    def __init__(
        self,
        root: Path,
        identity: IdentityInputs,
        host: HostTuple,
        usable: Callable[[Key], Artifact | None],
        touch: Touch,
        signing_key: bytes | None = None,
        user: str = "",
    ) -> None:
        """Use `Store.stage`. `usable`: the current artifact if it may stay current."""
        self._identity, self._host, self._usable, self._touch = identity, host, usable, touch
        self._signing_key, self._user = signing_key, user
        self._turn, self._moving = threading.Lock(), False
        self._left_behind = False  # in the middle of a rename that the storage does not answer
        self._key = Key.of(root, identity, host)
        self.dir = root / layout.STAGING / fs.unique()
        fs.make_directory(self.dir, root)

    def write(self, name: str, data: bytes) -> None:
        """Make a file. Raises: StoreError: stage stage."""
        self._touch("stage", lambda: (self.dir / name).write_bytes(data))

    def make(self, name: str) -> Path:
        """Make a directory. Raises: StoreError: stage stage."""
        self._touch("stage", lambda: (self.dir / name).mkdir(mode=0o700))
        return self.dir / name

    def narrow(self, host: HostTuple) -> None:
        """What it needs of a host is known better than when it was begun."""
        self._host, self._key = host, Key.of(self._key.root, self._identity, host)

    def publish(
        self,
        *,
        created_by: str,
        lease: Held | None = None,
        timings: Mapping[str, float] | None = None,
        blobs: Mapping[str, Sequence[str]] | None = None,
        threads: int | None = None,
        timeout: float | None = None,
        cancel: threading.Event | None = None,
        on_progress: Callable[[int, int], None] | None = None,
    ) -> Publication:
        """Bring every file to stable storage, hash it, write the manifest, make the artifact current. The staging is
        gone afterwards, also on failure.

        If another artifact for the same key is current already and not to be replaced (`usable`), it stays.

        Args:
            created_by: the pod, for people.
            lease: must still be held at the end.
            timings: of the freeze, into the manifest.
            blobs: files with the digests of their pieces, which are not computed again: the same content is kept once
                for all artifacts (see `store.blobs`).
            threads: None for one a core, 16 at most.
            timeout: give up after so many seconds, even if the storage hangs; what it does later is not published.
            cancel: give up when set.
            on_progress: called now and then in the caller's thread with bytes hashed and bytes in all.

        Raises:
            StoreError: stage publish: `STORE_FULL`, `STORE_READ_ONLY`, `STORE_UNAVAILABLE`, `STORE_SLOW` (timeout),
                `FREEZE_GIVEN_UP` (cancelled), `INTERNAL` (something that is not a regular file in the staging); or
                `LEASE_LOST`.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        size, signed = [0, 0], [time.monotonic()]

        def check() -> None:
            if cancel is not None and cancel.is_set():
                raise StoreError(Reason.FREEZE_GIVEN_UP, "publish", "cancelled")
            if deadline is not None and time.monotonic() > deadline:
                message = f"{size[0]} of {size[1]} bytes on stable storage in {timeout:g} s"
                raise StoreError(Reason.STORE_SLOW, "publish", message)

        def tick(done: int, total: int) -> None:
            size[:] = done, total
            check()
            if time.monotonic() - signed[0] >= _SIGN_SECONDS:
                signed[0] = time.monotonic()
                with suppress(OSError):  # it is but a sign
                    os.utime(self.dir)  # by the storage's clock

        def publish() -> Publication:
            generation = layout.new_generation()
            content = manifest.Manifest(
                generation=generation,
                identity=self._key.identity,
                identity_inputs=self._identity,
                host_tuple=self._key.host,
                host=self._host,
                files=self._seal(blobs or {}, threads or default_threads(), tick),
                created=datetime.now(UTC).isoformat(timespec="seconds"),
                created_by=created_by,
                timings=dict(timings or {}),
            )
            fs.write_new(self.dir / manifest.NAME, manifest.encode(content, self._signing_key))
            fs.sync(self.dir)
            if lease is not None:
                lease.check()
            with self._turn:
                check()
                self._moving = True
            return self._make_current(content)

        def watch() -> None:
            if on_progress:
                on_progress(*size)
            with self._turn:
                if not self._moving:
                    check()
                elif deadline is not None and time.monotonic() > deadline + _MOVE_SECONDS:
                    self._left_behind = True
                    check()

        try:
            with guard("publish"):
                return aside(publish, watch)
        finally:
            self.discard()

    def discard(self) -> None:
        """Remove it, as far as the storage lets: `gc` removes the rest later. Never raises; twice is fine."""
        if not self._left_behind:
            with suppress(StoreError):
                self._touch("stage", lambda: fs.remove_tree(self.dir))

    def _seal(
        self,
        blobs: Mapping[str, Sequence[str]],
        threads: int,
        tick: Callable[[int, int], None],
    ) -> tuple[manifest.FileEntry, ...]:
        """Private modes, stable storage, digests. `tick` is called now and then with bytes done and in all, and may
        raise to give up."""
        sizes: dict[str, int] = {}
        for name, size in sorted(artifacts.list_files(self.dir).items()):
            if size is None:
                raise StoreError(Reason.INTERNAL, "publish", f"{name} in the staging is not a regular file")
            sizes[name] = size
        directories = {self.dir / parent for name in sizes for parent in Path(name).parents}
        for directory in directories:
            directory.chmod(0o700)
        every = {name: pieces(name, size) for name, size in sizes.items()}
        digests = {p: digest for name in blobs for p, digest in zip(every[name], blobs[name], strict=True)}
        wanted = [piece for name in sizes if name not in blobs for piece in every[name]]
        total = sum(sizes.values())

        def settle(name: str) -> None:
            (self.dir / name).chmod(0o600)
            fs.sync(self.dir / name)

        hash_all(self.dir, wanted, digests.__setitem__, threads=threads, tick=lambda done: tick(done, total))
        for_each(sizes, settle, threads, lambda: tick(total, total))
        for name in blobs:
            share(self.dir / name, sizes[name], blobs[name], self._key.root, lambda _: tick(total, total))
        for directory in directories:
            fs.sync(directory)
        return tuple(
            manifest.FileEntry(path=name, size=size, blake3=tuple(digests[p] for p in every[name]))
            for name, size in sizes.items()
        )

    def _make_current(self, content: manifest.Manifest) -> Publication:
        key, generation = self._key, content.generation
        if self._user:
            use(key, self._user)
        before = layout.pointer(key.directory)  # looked at before, and compared after, the look at what it names
        if other := self._usable(key):
            return Publication(FreezeOutcome.PUBLISHED_BY_OTHER, other)
        place = key.directory / generation
        fs.make_directory(key.directory, key.root)
        try:
            self.dir.rename(place)  # whole, or not at all
        except FileNotFoundError:  # the collector found the directory empty
            fs.make_directory(key.directory, key.root)
            self.dir.rename(place)
        fs.sync(key.directory)
        fs.sync(self.dir.parent)
        if before is None:
            with suppress(FileExistsError):  # only one worker can be the first
                key.current.symlink_to(generation)
                fs.sync(key.directory)
        elif layout.pointer(key.directory) == before:
            fs.swap_link(key.current, generation)
            retire(key, before)
        if layout.pointer(key.directory) == generation:
            return Publication(FreezeOutcome.PUBLISHED, Artifact(place, content).with_shared())
        retire(key, generation)
        if other := self._usable(key):
            return Publication(FreezeOutcome.PUBLISHED_BY_OTHER, other)
        raise StoreError(Reason.STORE_UNAVAILABLE, "publish", f"{key.current} changes under our hands")


def retire(key: Key, generation: str) -> None:
    """Note that `generation` is not current from now on: `gc` deletes it after a while."""
    directory = key.directory / layout.RETIRED
    fs.make_directory(directory, key.root)
    marker = directory / generation
    marker.unlink(missing_ok=True)  # made anew, so that its time is the storage's time now
    fs.write_new(marker, b"")
