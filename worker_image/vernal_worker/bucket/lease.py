"""The creator lease in a bucket: at most one worker makes the checkpoint of an identity and host tuple.

The lease is one object, which is only ever written on condition that it is still what was read. Its holder writes it
anew every few seconds; whose was not written for `TTL` seconds, by the bucket's own clock, is dead, and another takes
the lease over by the same conditional write. As in a store (`store.lease`) it saves work and no more: that nobody reads
half an artifact does not depend on it.
"""

import threading
from contextlib import suppress
from typing import Self

import msgspec
from vernal_contract import decoding
from vernal_contract.reasons import Reason

from vernal_worker import threads
from vernal_worker.bucket.keys import Place
from vernal_worker.bucket.objects import Objects, Read
from vernal_worker.store.errors import StoreError, Touch
from vernal_worker.store.fs import unique
from vernal_worker.store.heartbeat import BEATS_PER_TTL
from vernal_worker.store.lease import Owner

TTL = 60.0
"""Seconds. More than a call may be tried again (`Objects`), so that a bucket that is slow for a while takes the lease
from nobody."""

_RELEASE_SECONDS = 5.0


class _Content(msgspec.Struct, frozen=True, kw_only=True):
    """`holder` is empty once it was given back. `token`: no two that are written are alike."""

    holder: str
    token: str
    owner: Owner


class BucketLease:
    """A held lease, kept alive by a thread until `release`. A context manager."""

    def __init__(self, objects: Objects, key: str, held: _Content, ttl: float, touch: Touch) -> None:
        self._objects, self._key, self._touch = objects, key, touch
        self._held, self._every = held, ttl / BEATS_PER_TTL
        self._turn = threading.Lock()
        self._stop = threading.Event()
        threads.keep_running("bucket-lease", self._run, threads.log_failure, pause=0.0)  # which begins with a pause

    def check(self) -> None:
        """A renewal that came late is no reason: what counts is whether another has taken the lease meanwhile.

        Raises:
            StoreError: stage lease: `LEASE_LOST`: another has; or the bucket cannot be read.
        """
        if self._stop.is_set():
            raise StoreError(Reason.LEASE_LOST, "lease", "it was given back")
        found = _content(self._touch("lease", lambda: self._objects.get(self._key, "lease")))
        if found is None or found.holder != self._held.holder:
            who = found.owner.pod if found is not None and found.holder else "nobody"
            raise StoreError(Reason.LEASE_LOST, "lease", f"{who} holds it now")

    def release(self) -> None:
        """Give it back and stop the thread. Never raises; twice is fine."""
        if not self._stop.is_set():
            self._stop.set()
            with suppress(StoreError):
                self._touch("lease", lambda: self._write(held=False), patience=_RELEASE_SECONDS)

    def _run(self) -> None:
        while not self._stop.wait(self._every):
            with suppress(StoreError):  # the bucket may come back
                if not self._write(held=True):
                    return

    def _write(self, *, held: bool) -> bool:
        """Whether it is still ours."""
        with self._turn:
            if held and self._stop.is_set():
                return False
            read = self._objects.get(self._key, "lease")
            found = _content(read)
            if read is None or found is None or found.holder != self._held.holder:
                return False
            new = msgspec.structs.replace(found, holder=found.holder if held else "", token=unique())
            return self._objects.swap(self._key, msgspec.json.encode(new), read, "lease")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()


class BucketLeaseRequest:
    """A wish for the lease. `holder`: who held it at the last try."""

    def __init__(self, objects: Objects, place: Place, owner: Owner, touch: Touch, ttl: float = TTL) -> None:
        self._objects, self._key, self._owner, self._touch, self._ttl = objects, place.lease, owner, touch, ttl
        self.holder: Owner | None = None

    def try_acquire(self) -> BucketLease | None:
        """The lease, or None if another holds it. Does not wait.

        Raises:
            StoreError: stage lease: the bucket cannot be read or written.
        """
        return self._touch.acquire("lease", self._try, BucketLease.release)

    def _try(self) -> BucketLease | None:
        read = self._objects.get(self._key, "lease")
        found = _content(read)
        if found is not None and found.holder and not self._is_dead(read):
            self.holder = found.owner
            return None
        token = unique()
        mine = _Content(holder=token, token=token, owner=self._owner)
        if self._objects.swap(self._key, msgspec.json.encode(mine), read, "lease"):
            self.holder = None
            return BucketLease(self._objects, self._key, mine, self._ttl, self._touch)
        found = _content(self._objects.get(self._key, "lease"))
        self.holder = found.owner if found is not None and found.holder else None
        return None

    def _is_dead(self, read: Read | None) -> bool:
        return read is None or self._objects.now("lease") - read.modified > self._ttl


def _content(read: Read | None) -> _Content | None:
    """None of what is not there or none of ours: then it is nobody's."""
    if read is None:
        return None
    try:
        return decoding.json(read.data, _Content)
    except msgspec.MsgspecError:
        return None
