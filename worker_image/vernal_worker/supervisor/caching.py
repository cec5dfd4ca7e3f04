"""The node cache in one start of a worker: what it gave, what it gets, and what is said of it.

Whatever is wrong with it, the worker starts as it would without.
"""

import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path

from msgspec.structs import replace
from vernal_contract import names
from vernal_contract.reasons import Reason
from vernal_contract.state import CacheFill, CacheLookup, NodeCacheReport

from vernal_worker.parallel import aside
from vernal_worker.store.artifact import Artifact
from vernal_worker.store.errors import StoreError
from vernal_worker.store.manifest import Manifest
from vernal_worker.store.node_cache import PATIENCE, Filled, NodeCache, View
from vernal_worker.store.receiving import Source
from vernal_worker.supervisor import cache_mount, log
from vernal_worker.supervisor.board import Board

NEXT_STEP: dict[CacheLookup | CacheFill, str] = {
    CacheLookup.DAMAGED: "the disk gives other bytes than were written, or somebody wrote there: check the node's disk",
    CacheLookup.UNAVAILABLE: "check the directory nodeCache.directory of the chart on this node, and its disk",
    CacheFill.FULL: "raise nodeCache.size of the chart, or free space on the disk of nodeCache.directory",
    CacheFill.FAILED: "check the disk of the file that the message names",
}
"""What to do, by what went wrong."""

SUSPECT = frozenset(
    {
        Reason.DIGEST_MISMATCH,
        Reason.FILE_MISSING,
        Reason.FILE_SIZE_MISMATCH,
        Reason.MANIFEST_INVALID,  # a small file that cannot be read as what it is
        Reason.STORE_UNAVAILABLE,
        Reason.STORE_SLOW,
        Reason.THAW_TIMEOUT,
    }
)
"""Reasons for which a thaw from the cache failed, and one from the store may not."""

_NOT_ITS_BYTES = frozenset({Reason.STORE_UNAVAILABLE, Reason.STORE_SLOW, Reason.THAW_TIMEOUT})

_CGROUP = Path("/sys/fs/cgroup")


def spare_memory(cgroup: Path = _CGROUP) -> int | None:
    """Bytes that this container may use besides what it does; None if there is no limit, or none that it can see."""
    with suppress(OSError, ValueError):
        limit, used = ((cgroup / f"memory.{name}").read_text().strip() for name in ("max", "current"))
        return max(0, int(limit) - int(used))
    return None


class Caching:
    """`cache`: None where there is none."""

    def __init__(self, cache: NodeCache | None, tier: str, board: Board) -> None:
        self._cache, self._board = cache, board
        self._report = NodeCacheReport(tier=tier)
        self._distrusted = self._refused = False
        if cache is not None:
            self._tell()

    def look(self, content: Manifest) -> View | None:
        """The artifact of this manifest from the cache. Never raises."""
        if self._cache is None or self._distrusted:
            return None
        began, message = time.monotonic(), ""
        try:
            view = self._cache.look(content)
            found = CacheLookup.HIT if view is not None else CacheLookup.MISS
        except StoreError as error:
            if error.reason is Reason.THAW_GIVEN_UP:  # told to stop
                return None
            view, found, message = None, CacheLookup.UNAVAILABLE, error.message
        seconds = time.monotonic() - began
        self._tell(lookup=found, lookup_seconds=round(seconds, 4), message=message)
        self._say(f"node_cache_{found.lower()}", found, message, generation=content.generation, seconds=seconds)
        return view

    def fetch(
        self, content: Manifest, source: Source, wait: float | None, on_progress: Callable[[int, int], None]
    ) -> View | None:
        """The artifact of this manifest, which is brought to the cache first: see `NodeCache.fetch`. None: it must go
        elsewhere. Always so where the cache is memory: what that gets counts as this pod's, and how much of its memory
        is left nobody knows before the engine serves.

        Raises:
            StoreError: what `source` and `on_progress` raise; `THAW_GIVEN_UP`.
        """
        if self._cache is None or self._distrusted or self._report.tier != "disk":
            return None
        began = time.monotonic()
        try:
            fetched = self._cache.fetch(content, source, wait=wait, on_progress=on_progress)
        except StoreError as error:
            if error.stage != "cache" or error.reason is Reason.THAW_GIVEN_UP:
                raise
            self._refused = True
            self._failed(error)
            return None
        seconds = time.monotonic() - began
        if fetched.busy:
            log.event("node_cache_busy", generation=content.generation, seconds=seconds)
            return None
        self._refused = bool(fetched.filled.full)
        self._filled(fetched.filled, content, seconds)
        return fetched.view

    def thawed(self, artifact: Artifact) -> None:
        """What it gave was right."""
        self._tell(bytes=artifact.bytes)

    def distrust(self, artifact: Artifact, reason: Reason, message: str) -> None:
        """A thaw of what it gave failed for one of the reasons `SUSPECT`: this start asks it no more."""
        assert self._cache is not None
        self._distrusted = True
        found = CacheLookup.UNAVAILABLE if reason in _NOT_ITS_BYTES else CacheLookup.DAMAGED
        if found is CacheLookup.DAMAGED:
            try:
                self._cache.drop(artifact.manifest)
            except StoreError as error:
                message = f"{message}; and it stays: {error.message}"
        self._tell(lookup=found, message=message)
        self._say(f"node_cache_{found.lower()}", found, message, generation=artifact.generation, reason=reason)

    def fill(self, artifact: Artifact) -> None:
        """Begin to put into the cache what was read from the store, and return at once. Once the worker serves: nobody
        waits for it. Not if it has not taken the same just now."""
        if (cache := self._cache) is not None and not self._refused:
            thread = threading.Thread(target=self._fill, args=(cache, artifact), name="node-cache", daemon=True)
            thread.start()

    def _fill(self, cache: NodeCache, artifact: Artifact) -> None:
        began = time.monotonic()
        try:
            filled = cache.fill(artifact)
        except StoreError as error:
            if error.reason is not Reason.THAW_GIVEN_UP:  # told to stop
                self._failed(error)
            return
        except Exception as error:
            log.failure("bug", traceback=log.trace(error))
            self._tell(fill=CacheFill.FAILED, message=f"{type(error).__name__}: {error}")
            return
        self._filled(filled, artifact.manifest, time.monotonic() - began)

    def _failed(self, error: StoreError) -> None:
        self._say("node_cache_not_filled", CacheFill.FAILED, error.message, reason=error.reason)
        self._tell(fill=CacheFill.FAILED, message=error.message)

    def _filled(self, filled: Filled, content: Manifest, seconds: float) -> None:
        if filled.full:
            needed = sum(entry.size for entry in content.files)
            self._say("node_cache_not_filled", CacheFill.FULL, filled.full, bytes=needed)
            self._tell(fill=CacheFill.FULL, message=filled.full)
            return
        log.event(
            "node_cache_filled",
            generation=content.generation,
            bytes=filled.bytes,
            evicted=filled.evicted,
            seconds=seconds,
        )
        self._tell(
            fill=CacheFill.FILLED,
            fill_seconds=round(seconds, 4),
            filled_bytes=filled.bytes,
            evicted_bytes=filled.evicted,
        )

    def unavailable(self, message: str) -> None:
        """There should be one, and it cannot be used."""
        self._tell(lookup=CacheLookup.UNAVAILABLE, message=message)
        self._say("node_cache_unavailable", CacheLookup.UNAVAILABLE, message)

    def _tell(self, **fields: object) -> None:
        self._report = replace(self._report, **fields, told_at=round(time.time(), 3))
        self._board.update(node_cache=self._report)

    def _say(self, event: str, word: CacheLookup | CacheFill, message: str, **fields: object) -> None:
        if (step := NEXT_STEP.get(word)) is None:
            log.event(event, **fields)
        else:
            log.failure(event, message=message, **fields, next_step=step)


def limit(variables: Mapping[str, str]) -> int | None:
    """How many bytes the cache may have; None without one.

    Raises:
        ValueError: `names.ENV_NODE_CACHE` is no number of bytes.
    """
    text = variables.get(names.ENV_NODE_CACHE)
    if not text:
        return None
    if not text.isdecimal():
        raise ValueError(f"{names.ENV_NODE_CACHE} is {text!r}, which is no number of bytes")
    return int(text)


def opened(size: int | None, board: Board, cancel: threading.Event) -> Caching:
    """The node's cache, if this worker is to have one of `size` bytes, taken out of sight of any engine."""
    if size is None:
        return Caching(None, "", board)
    path = Path(names.PATH_NODE_CACHE)
    deadline = time.monotonic() + PATIENCE

    def tick() -> None:
        if time.monotonic() > deadline:
            raise TimeoutError(f"{path} has not answered for {PATIENCE:g} s")

    try:
        taken = aside(lambda: cache_mount.take(path), tick)
    except OSError as error:
        caching = Caching(None, "", board)
        caching.unavailable(str(error))
        return caching
    spare = spare_memory if taken.tier == "memory" else lambda: None
    return Caching(NodeCache(taken.root, size, spare=spare, cancel=cancel), taken.tier, board)
