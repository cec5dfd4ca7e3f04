"""Keeping the store below its size limit: of all the workers that save, one at a time looks through it, once a minute.

Whoever does holds a lease, and leaves what it found beside the blocks, for the others. No two machines' clocks are
compared: the record counts as new when it is another one than at the last look.
"""

import logging
import platform
import secrets
import threading
from pathlib import Path
from time import monotonic

import msgspec
from vernal_contract import decoding
from vernal_contract.reasons import Reason

from vernal_worker.kv import LOGGER, blockfile
from vernal_worker.kv.counters import EVICTED_BLOCKS, Counters
from vernal_worker.kv.eviction import RECORD_NAME, evict
from vernal_worker.kv.workers import Workers
from vernal_worker.store.errors import StoreError, Touch
from vernal_worker.store.layout import Key
from vernal_worker.store.lease import Lease, LeaseRequest, Owner

_logger = logging.getLogger(LOGGER)

RESCAN_SECONDS = 60.0
_AGAIN_SECONDS = 5.0  # after the lease was another's
_LEASE_SECONDS = 60.0  # without a heartbeat: then its holder is dead


class _Record(msgspec.Struct, frozen=True):
    """What an eviction left in the store, in bytes; `scan` is different each time."""

    bytes: int
    scan: str


def lease_key(root: Path) -> Key:
    """Names the lease, `<root>/leases/kv-eviction`."""
    return Key(root, "kv", "eviction")


class SizeLimit:
    """Has the store shrunk, in a thread of its own, when it may have grown over `limit_bytes`.

    Between two looks only this worker's own writes are known, so with n workers the store may be larger by what the
    others write in `RESCAN_SECONDS`.
    """

    def __init__(self, root: Path, limit_bytes: int | None, counters: Counters) -> None:
        self._root = root
        self._limit = limit_bytes
        self._counters = counters
        self._workers = Workers("vernal-kv-evict", 1)
        self._request = LeaseRequest(lease_key(root), Owner(pod=platform.node()), _LEASE_SECONDS, Touch())
        self._lock = threading.Lock()
        self._stopped = threading.Event()
        self._running = False
        self._estimate = 0
        self._record = b""
        self._looked = -RESCAN_SECONDS
        self._not_before = 0.0

    def added(self, size: int) -> None:
        """This worker wrote a block of `size` bytes."""
        if self._limit is None:
            return
        now = monotonic()
        with self._lock:
            self._estimate += size
            over = self._estimate > self._limit
            due = (over or now - self._looked >= RESCAN_SECONDS) and now >= self._not_before
        if due:
            self._start(self._limit)

    def full(self) -> None:
        """The storage said that it is full."""
        self._start(None)

    def wait(self, timeout: float) -> bool:
        """Wait for the eviction that runs, `timeout` seconds at most; returns whether none runs any more."""
        return self._workers.drain(timeout)

    def stop(self, timeout: float) -> bool:
        """As `wait`, but end it early, and begin none any more: after that no file of the store is open."""
        self._stopped.set()
        return self.wait(timeout)

    def _start(self, limit: int | None) -> None:
        with self._lock:
            if self._running or self._stopped.is_set():
                return
            self._running = True
        if not self._workers.submit(lambda: self._run(limit)):
            with self._lock:
                self._running = False

    def _run(self, limit: int | None) -> None:
        try:
            if not self._others_did(limit):
                self._evict_alone(limit)
        finally:
            with self._lock:
                self._running = False

    def _others_did(self, limit: int | None) -> bool:
        """Whether another has looked through the store since this worker's last look, and left it small enough."""
        try:
            data = (self._root / RECORD_NAME).read_bytes()
            record = decoding.json(data, _Record)
        except (OSError, msgspec.MsgspecError):
            return False
        if data == self._record:
            return False
        with self._lock:
            self._record = data
            self._estimate = record.bytes
            self._looked = monotonic()
        return limit is not None and record.bytes <= limit

    def _evict_alone(self, limit: int | None) -> None:
        try:
            lease = self._request.try_acquire()
        except StoreError as error:
            if error.reason is not Reason.STORE_FULL:
                self._pause(RESCAN_SECONDS)
                _logger.warning("KV store: no eviction for %.0f s: %s", RESCAN_SECONDS, error)
                return
            self._evict(limit)  # a full disk has no room for a lease; two that evict at once choose the same blocks
        else:
            if lease is None:  # its holder evicts
                self._pause(_AGAIN_SECONDS)
                return
            self._evict_with(lease, limit)

    def _evict_with(self, lease: Lease, limit: int | None) -> None:
        with lease:
            if not self._others_did(limit):  # between the look and the lease
                self._evict(limit)

    def _evict(self, limit: int | None) -> None:
        evicted = evict(self._root, limit, lambda: not self._stopped.is_set())
        self._counters.add(EVICTED_BLOCKS, evicted.blocks)
        if evicted.blocks:
            _logger.info(
                "KV store: %d blocks evicted, %.1f -> %.1f MiB",
                evicted.blocks,
                evicted.bytes_before / 2**20,
                evicted.bytes_after / 2**20,
            )
        if self._stopped.is_set():  # it did not see all
            return
        data = msgspec.json.encode(_Record(evicted.bytes_after, secrets.token_hex(8)))
        with self._lock:
            self._record = data
            self._estimate = evicted.bytes_after
            self._looked = monotonic()
        try:
            blockfile.publish(self._root / RECORD_NAME, data)
        except OSError as error:
            _logger.info("KV store: the others cannot be told of the eviction: %s", error)

    def _pause(self, seconds: float) -> None:
        with self._lock:
            self._not_before = monotonic() + seconds
