"""`vernal-worker cache`: the node's copies of checkpoints, without a worker. Each returns the process's exit code."""

import argparse
import os
import signal
import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path

from vernal_contract import names, state
from vernal_contract.reasons import Reason
from vernal_contract.state import CacheFill, CacheLookup, NodeCacheReport

from vernal_worker.commands import CommandError, store_root
from vernal_worker.store import artifact as artifacts
from vernal_worker.store import fs, layout
from vernal_worker.store.errors import StoreError, guard
from vernal_worker.store.layout import Key
from vernal_worker.store.manifest import Manifest
from vernal_worker.store.node_cache import Filled, NodeCache
from vernal_worker.supervisor import cache_mount, caching
from vernal_worker.supervisor.exits import ExitCode
from vernal_worker.supervisor.farewell import TERMINATION_LOG

_SAID_SECONDS = 5.0


def run(arguments: argparse.Namespace) -> int:
    """Raises: CommandError, StoreError."""
    return {"fill": fill}[arguments.action](arguments)


def fill(arguments: argparse.Namespace) -> int:
    """Have the files of a checkpoint in the node's cache."""
    cancel = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: cancel.set())
    path, size = _place(arguments.cache), _size(arguments.size, os.environ)
    kind, _ = fs.mount(path)
    tier = "memory" if kind in cache_mount.MEMORY else "disk"
    spare = caching.spare_memory if tier == "memory" else lambda: None
    report = NodeCacheReport(tier=tier)
    try:
        _fill(arguments, NodeCache(path, size, spare=spare, cancel=cancel), cancel, report)
    except StoreError as error:
        report.fill, report.message = CacheFill.FAILED, f"{error.reason}: {error.message}"
    report.told_at = round(time.time(), 3)
    _tell(report)
    if report.lookup is CacheLookup.HIT or report.fill is CacheFill.FILLED:
        return ExitCode.OK
    step = caching.NEXT_STEP.get(report.fill or CacheFill.FAILED, "")
    print(f"{report.fill}: {report.message}; next: {step}", file=sys.stderr)
    return ExitCode.INTERNAL


def _fill(arguments: argparse.Namespace, cache: NodeCache, cancel: threading.Event, report: NodeCacheReport) -> None:
    """Raises: CommandError, StoreError."""
    began = time.monotonic()
    source = _Bucket(arguments, cancel) if arguments.bucket else _Claim(arguments)
    content = source.manifest
    if arguments.generation not in (None, content.generation):
        message = f"{content.generation} is current now, and not {arguments.generation}"
        raise StoreError(Reason.NO_ARTIFACT, "find", message)
    with guard("cache"):
        view = cache.look(content)
    report.lookup = CacheLookup.HIT if view is not None else CacheLookup.MISS
    report.lookup_seconds = round(time.monotonic() - began, 4)
    if view is not None:
        view.release()
        print(f"{content.generation}: it is there")
        return
    began = time.monotonic()
    done = source.fill(cache)
    report.fill_seconds = round(time.monotonic() - began, 4)
    if done.full:
        report.fill, report.message = CacheFill.FULL, done.full
        return
    report.fill, report.filled_bytes, report.evicted_bytes = CacheFill.FILLED, done.bytes, done.evicted
    made_room = f"; {done.evicted / 1e6:.0f} MB of others made room" if done.evicted else ""
    print(f"{content.generation}: {done.bytes / 1e6:.0f} MB {source.did} in {report.fill_seconds:.1f} s{made_room}")


class _Claim:
    """The artifact in a store, which may be read-only."""

    did = "copied"

    def __init__(self, arguments: argparse.Namespace) -> None:
        """Raises: StoreError, CommandError."""
        key = Key(store_root(arguments), arguments.identity, arguments.host)
        with guard("find"):
            generation = layout.pointer(key.directory)
            if generation is None:
                raise StoreError(Reason.NO_ARTIFACT, "find", f"{key.directory}: no artifact is current")
            self._artifact = artifacts.load(key.directory / generation)

    @property
    def manifest(self) -> Manifest:
        return self._artifact.manifest

    def fill(self, cache: NodeCache) -> Filled:
        """Raises: StoreError."""
        return cache.fill(self._artifact, on_progress=_Progress(self.did))


class _Bucket:
    """The artifact in a bucket, which goes to the cache and nowhere else."""

    did = "fetched"

    def __init__(self, arguments: argparse.Namespace, cancel: threading.Event) -> None:
        """Raises: StoreError, CommandError."""
        from vernal_worker.bucket import credentials, pointer, publications
        from vernal_worker.bucket.keys import Place
        from vernal_worker.bucket.objects import Objects

        options = {"endpoint": arguments.endpoint, "region": arguments.region}
        try:
            self._objects = Objects(arguments.bucket, **options, credentials=credentials.given(os.environ))
        except ValueError as error:
            raise CommandError(ExitCode.USAGE, str(error)) from error
        place, self._cancel = Place.of(arguments.identity, arguments.host), cancel
        current = pointer.look(self._objects, place, "find")
        if current is None or not current.publication:
            message = f"{self._objects.url}/{place.current}: no artifact is current"
            raise StoreError(Reason.NO_ARTIFACT, "find", message)
        self._published = publications.load(self._objects, place, current.publication, "find")

    @property
    def manifest(self) -> Manifest:
        return self._published.manifest

    def fill(self, cache: NodeCache) -> Filled:
        """Raises: StoreError."""
        from vernal_worker.bucket.pull import Allowed, FromBucket

        source = FromBucket(self._objects, self._published)
        allowed = Allowed(None, self._cancel, _Progress(self.did))
        fetched = cache.fetch(self.manifest, source, on_progress=allowed)
        if fetched.view is not None:
            fetched.view.release()
        return fetched.filled


class _Progress:
    """A line every few seconds: a log is read, not a terminal."""

    def __init__(self, did: str) -> None:
        self._did, self._said = did, time.monotonic()

    def __call__(self, done: int, total: int) -> None:
        if (now := time.monotonic()) - self._said >= _SAID_SECONDS:
            self._said = now
            print(f"{self._did} {done / 1e6:.0f} of {total / 1e6:.0f} MB", flush=True)


def _place(given: str | None) -> Path:
    path = Path(given or names.PATH_NODE_CACHE)
    if not path.is_dir():
        raise CommandError(ExitCode.USAGE, f"there is no directory {path}; say with --cache where the node's cache is")
    if given is None and not os.path.ismount(path):
        raise CommandError(ExitCode.USAGE, f"{path} is not mounted; say with --cache where the node's cache is")
    return path


def _size(given: int | None, variables: Mapping[str, str]) -> int:
    try:
        size = given or caching.limit(variables)
    except ValueError as error:
        raise CommandError(ExitCode.USAGE, str(error)) from error
    if size is None:
        raise CommandError(ExitCode.USAGE, f"say with --size, or {names.ENV_NODE_CACHE}, how much the cache may have")
    return size


def _tell(report: NodeCacheReport) -> None:
    """To the operator: what the kubelet makes of it stands in the status of the pod."""
    if TERMINATION_LOG.exists():
        try:
            TERMINATION_LOG.write_bytes(state.encode_cache(report))
        except OSError as error:
            print(f"{TERMINATION_LOG}: {error.strerror}", file=sys.stderr)
