"""Files of artifacts on the disk of a node, in front of whatever store its workers have.

    v1/blobs/<digest>     a file of an artifact, under the same name as a store's blob: of its size and its digests
    v1/busy/<unique>/     of one worker: the view of an artifact that it reads, or the file that it is writing
    v1/filling            locked by the one who fills; names the artifact that comes

What a file must be is never asked here: names, sizes and digests are those of the manifest that came from the store,
and whoever thaws compares every byte. So a cache that was emptied, cut off or written to by somebody else gives a miss,
and never another answer.

A view has a hard link of each file. So what is read cannot vanish, and a file with a second link is one that somebody
reads. All marks are locks (flock(2)), which the kernel takes away with their owner: a node's workers share one kernel.
There is nothing to repair after a kill: a file gets its name when it is whole, and what a dead worker left in `busy` is
removed by the next one who fills.
"""

import fcntl
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Self

import msgspec
from vernal_contract.config import Verify
from vernal_contract.reasons import Reason

from vernal_worker.parallel import aside
from vernal_worker.store import cached, eviction, fs, layout
from vernal_worker.store.artifact import Artifact
from vernal_worker.store.busy import claim, sweep
from vernal_worker.store.errors import StoreError, Touch, guard
from vernal_worker.store.manifest import FileEntry, Manifest
from vernal_worker.store.receiving import Disk, FromArtifact, Source, receive

FORMAT = "v1"
BUSY, FILLING = "busy", "filling"

PATIENCE = 5.0
"""Seconds that a look, or the end of one, may take: a node's own disk that is slower is of no use to a start."""

SILENT_SECONDS = 15.0
"""For one call to the disk while a start waits for what is fetched: then that goes elsewhere."""

_TURN_SECONDS = 0.5

Progress = Callable[[int, int], None]
"""Told now and then how many bytes have come, and of how many; may raise to give up."""


def _silently(done: int, total: int) -> None:
    pass


class Filled(msgspec.Struct, frozen=True):
    """`bytes` of files were added, and `evicted` bytes of others went for them. Nothing was if `full` says why."""

    bytes: int = 0
    evicted: int = 0
    full: str = ""


class View:
    """An artifact as the cache has it, for reading until `release`: `path` is its directory. A context manager."""

    def __init__(self, path: Path, lock: int, touch: Touch) -> None:
        self.path = path
        self._lock, self._touch = lock, touch

    def release(self) -> None:
        """Give it back. Never raises; twice is fine. A disk that hangs is not waited for."""
        lock, self._lock = self._lock, -1
        if lock >= 0:
            with suppress(StoreError):
                self._touch("cache", lambda: fs.remove_tree(self.path))
            os.close(lock)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()


class Fetched(msgspec.Struct, frozen=True):
    """What `NodeCache.fetch` came to. `view`: None where there was no room, and where another one is at work."""

    filled: Filled
    view: View | None
    busy: bool = False


class NodeCache:
    """The cache in the directory `root`, of which this user alone may read what it puts there.

    Args:
        limit: bytes of disk that it may have.
        spare: how many bytes may be added, as far as something else than the disk says so; None: it does not.
        patience: see `PATIENCE`; None: as long as it takes.
        cancel: a look and a fill end when it is set, with `THAW_GIVEN_UP`.
    """

    def __init__(
        self,
        root: Path,
        limit: int,
        *,
        spare: Callable[[], int | None] = lambda: None,
        patience: float | None = PATIENCE,
        cancel: threading.Event | None = None,
    ) -> None:
        self._mount, self._root, self._limit, self._spare = root, root / FORMAT, limit, spare
        self._cancel = cancel or threading.Event()
        self._touch = Touch(patience, cancel)

    # --- for who thaws ---

    def look(self, content: Manifest) -> View | None:
        """The artifact of this manifest, if all of its files are here, with the sizes that they should have. Their
        bytes are the caller's to compare.

        Raises:
            StoreError: stage cache: the disk cannot be read or written, or does not answer.
        """
        return self._touch.acquire("cache", lambda: self._look(content), View.release)

    def _look(self, content: Manifest) -> View | None:
        wanted = cached.wanted(content)
        if cached.missing(self._blobs, wanted):
            return None
        if wanted:
            cached.probe(self._blobs / max(wanted, key=lambda name: wanted[name].size))
        path, lock = claim(self._busy)
        view = View(path, lock, self._touch)
        try:
            for entry in content.files:
                file = path / entry.path
                for parent in reversed(file.relative_to(path).parents[:-1]):
                    (path / parent).mkdir(mode=0o700, exist_ok=True)
                os.link(self._blobs / cached.name(entry), file, follow_symlinks=False)
            Artifact(path, content).verify(Verify.SIZES)
            for name in wanted:
                os.utime(self._blobs / name, follow_symlinks=False)
        except (FileNotFoundError, StoreError):  # evicted at this moment, or no file any more
            view.release()
            return None
        except BaseException:
            view.release()
            raise
        return view

    def drop(self, content: Manifest) -> None:
        """Forget the files of this manifest, whoever reads them: one of them is not what it should be.

        Raises:
            StoreError: as `look`.
        """

        def drop() -> None:
            for name in cached.wanted(content):
                (self._blobs / name).unlink(missing_ok=True)

        self._touch("cache", drop)

    # --- for who has not found it here ---

    def fill(self, artifact: Artifact, on_progress: Progress = _silently) -> Filled:
        """Have the artifact's files here, too, of which each byte is compared on the way. One worker at a time fills;
        the next one waits for it, and looks again what is missing. May take as long as the disks want.

        Raises:
            StoreError: stage cache: one of the disks cannot be read or written; `DIGEST_MISMATCH`: the artifact is not
                what its manifest says; `THAW_GIVEN_UP`. Files that were whole by then stay.
        """
        disk = Disk()
        with guard("cache"), self._turn(artifact.generation, disk, lambda others: True):
            return self._fill(artifact.manifest, FromArtifact(artifact), on_progress, disk)

    def fetch(
        self, content: Manifest, source: Source, *, wait: float | None = None, on_progress: Progress = _silently
    ) -> Fetched:
        """The artifact of this manifest, whose files come from `source` straight to here, as far as they are not.
        Where another one is bringing the same, it is waited for.

        Args:
            wait: seconds for that at most; None: also for who brings something else, and as long as it takes. A start
                waits for an end of it, so nothing is waited for to be on the disk: what a power cut makes of the files
                is found by their digests, as any damage is.

        Raises:
            StoreError: of another stage than cache: what `source` and `on_progress` raise. Stage cache: as `fill`, and
                `STORE_SLOW`: the disk does not answer. Files that were whole by then stay.
        """
        disk, nobody_waits = Disk(), threading.Event()
        deadline = None if wait is None else time.monotonic() + wait

        def wait_for(others: str) -> bool:
            return deadline is None or (others == content.generation and time.monotonic() < deadline)

        def progress(done: int, total: int) -> None:
            if nobody_waits.is_set():
                raise StoreError(Reason.THAW_GIVEN_UP, "cache", "nobody waits for it")
            on_progress(done, total)

        def fetch() -> Fetched:
            with guard("cache"), self._turn(content.generation, disk, wait_for) as mine:
                if not mine:
                    return Fetched(Filled(), None, busy=True)
                filled = self._fill(content, source, progress, disk, synced=wait is None)
                with disk.asked():
                    view = None if filled.full else self._look(content)  # nobody else makes room now
                    if view is not None and nobody_waits.is_set():
                        view.release()
                return Fetched(filled, view)

        def watch() -> None:
            self._go_on()
            if disk.silent > SILENT_SECONDS:
                message = f"{self._mount}: the disk has not answered for {SILENT_SECONDS:g} s"
                raise StoreError(Reason.STORE_SLOW, "cache", message)

        try:
            return aside(fetch, watch)
        except BaseException:
            nobody_waits.set()
            raise

    def _fill(
        self, content: Manifest, source: Source, on_progress: Progress, disk: Disk, *, synced: bool = True
    ) -> Filled:
        with disk.asked():
            plan = self._make_room(content)
        if isinstance(plan, Filled):
            return plan
        wanted, evicted = plan
        total = sum(entry.size for entry in wanted.values())
        with disk.asked():
            path, lock = claim(self._busy)
        files = {path / name: entry for name, entry in wanted.items()}

        def whole(file: Path) -> None:
            file.rename(self._blobs / file.name)

        try:
            receive(source, files, tick=lambda done: on_progress(done, total), whole=whole, disk=disk, synced=synced)
        finally:
            with disk.asked():
                fs.remove_tree(path)
                os.close(lock)
        return Filled(total, evicted)

    def _make_room(self, content: Manifest) -> Filled | tuple[dict[str, FileEntry], int]:
        """What is missing, and the bytes of what went for it; or why nothing is to be brought."""
        wanted = cached.wanted(content)
        names = cached.missing(self._blobs, wanted)
        if not names:
            return Filled()
        for name in names:  # which may be there with another size
            (self._blobs / name).unlink(missing_ok=True)
        needed = sum(eviction.on_disk(wanted[name].size) for name in names)
        if (spare := self._spare()) is not None and needed > spare:
            return Filled(full=f"{needed} bytes are needed, and the pod's memory limit has room for {spare}")
        files, unnamed = cached.inventory(self._blobs, self._busy)
        unnamed += eviction.BLOCK  # FILLING
        disk = os.statvfs(self._root)
        used = unnamed + sum(file.bytes for file in files)
        room = eviction.allowed(self._limit, used, disk.f_bavail * disk.f_frsize, disk.f_blocks * disk.f_frsize)
        going = eviction.victims(files, wanted.keys(), needed, room - unnamed)
        if going is None:
            return Filled(full=f"{needed} bytes are needed; it may have {room}, and has {used} of which too many stay")
        evicted = sum(file.bytes for file in files if file.name in going)
        for name in going:
            (self._blobs / name).unlink(missing_ok=True)
        return {name: wanted[name] for name in names}, evicted

    # --- underneath ---

    @property
    def _blobs(self) -> Path:
        return self._root / layout.BLOBS

    @property
    def _busy(self) -> Path:
        return self._root / BUSY

    @contextmanager
    def _turn(self, generation: str, disk: Disk, wait_for: Callable[[str], bool]) -> Iterator[bool]:
        """Be the one who fills, with what dead ones left removed. `wait_for`: whether the one who brings this
        generation is waited for; whether it came to be our turn."""
        with disk.asked():
            for directory in (self._blobs, self._busy):
                fs.make_directory(directory, self._mount)
            fd = os.open(self._root / FILLING, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
        try:
            mine = False
            while not mine:
                self._go_on()
                try:
                    fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    mine = True
                except BlockingIOError:
                    with disk.asked():
                        others = os.pread(fd, 1 << 10, 0).decode(errors="replace")
                    if not wait_for(others):
                        break
                    self._cancel.wait(_TURN_SECONDS)
            if mine:
                with disk.asked():
                    os.truncate(fd, 0)
                    os.pwrite(fd, generation.encode(), 0)  # for who decides whether to wait; nothing rests on it
                    sweep(self._busy)
            yield mine
        finally:
            os.close(fd)

    def _go_on(self) -> None:
        if self._cancel.is_set():
            raise StoreError(Reason.THAW_GIVEN_UP, "cache", "cancelled")
