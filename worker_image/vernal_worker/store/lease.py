"""The creator lease: at most one worker freezes for an identity and host tuple.

The lease is a file that is put in place whole with link(2), which either makes it or fails, also over NFS. Its holder
writes a counter into a file of its own beside it. Whoever waits watches that counter by its own clock: machines' clocks
are never compared. Holding the lease saves work; that readers never see half an artifact does not depend on it.
"""

import time
from contextlib import suppress
from pathlib import Path
from typing import Protocol, Self

import msgspec
from vernal_contract import decoding
from vernal_contract.reasons import Reason

from vernal_worker.store import fs, layout
from vernal_worker.store.errors import StoreError, Touch
from vernal_worker.store.heartbeat import Heartbeat
from vernal_worker.store.layout import Key

_RELEASE_SECONDS = 5.0
"""For giving it back; a dead holder's lease goes to another anyway."""


class Owner(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """Who holds a lease; for messages."""

    pod: str
    node: str = ""


class _Content(msgspec.Struct, frozen=True, kw_only=True):
    token: str
    owner: Owner


class Held(Protocol):
    """A held lease, wherever it is kept. A context manager."""

    def check(self) -> None:
        """Raises:
        StoreError: stage lease: `LEASE_LOST`: another has it; or where it is kept cannot be read.
        """

    def release(self) -> None:
        """Give it back. Never raises; twice is fine."""

    def __enter__(self) -> Self: ...

    def __exit__(self, *_: object) -> None: ...


class Request(Protocol):
    """A wish for a lease. `holder`: who held it at the last try."""

    holder: Owner | None

    def try_acquire(self) -> Held | None:
        """The lease, or None if another holds it. Does not wait.

        Raises:
            StoreError: stage lease: where it is kept cannot be written.
        """


class Lease:
    """A held lease, kept alive by a thread until `release`. A context manager."""

    def __init__(self, path: Path, token: str, beat: Heartbeat, touch: Touch) -> None:
        self._path, self._token, self._beat, self._touch = path, token, beat, touch

    def check(self) -> None:
        """A heartbeat that came late is no reason: what counts is whether another has taken the lease meanwhile.

        Raises:
            StoreError: stage lease: `LEASE_LOST`: another has; or the store cannot be read.
        """
        content = self._touch("lease", lambda: _read(self._path))
        if self._beat.stopped:
            raise StoreError(Reason.LEASE_LOST, "lease", "it was given back")
        if content is not None and content.token != self._token:
            silent = f"{time.monotonic() - self._beat.last:.0f} s ago"
            message = f"{content.owner.pod} holds it now; the last heartbeat was {silent}"
            raise StoreError(Reason.LEASE_LOST, "lease", message)

    def release(self) -> None:
        """Give it back and stop the thread. Never raises; twice is fine."""
        if not self._beat.stopped:
            self._beat.stop()
            with suppress(StoreError):
                self._touch("lease", self._remove, patience=_RELEASE_SECONDS)

    def _remove(self) -> None:
        with suppress(OSError):
            _take_away(self._path, self._token)
        with suppress(OSError):
            self._beat.path.unlink()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()


class LeaseRequest:
    """A wish for the lease. Ask early and again later: a dead holder's lease can be taken once its heartbeat has been
    seen to stand still for `ttl` seconds of this process's own clock, and the first `try_acquire` starts looking."""

    def __init__(self, key: Key, owner: Owner, ttl: float, touch: Touch) -> None:
        self._key, self._owner, self._ttl, self._touch = key, owner, ttl, touch
        self._seen: tuple[str, bytes] | None = None
        self._since = 0.0
        self.holder: Owner | None = None
        """Who held it at the last try."""

    def try_acquire(self) -> Lease | None:
        """The lease, or None if another holds it (`holder` says who). Does not wait.

        Raises:
            StoreError: stage lease: the store cannot be written.
        """
        return self._touch.acquire("lease", self._try, Lease.release)

    def _try(self) -> Lease | None:
        fs.make_directory(self._key.lease.parent, self._key.root)
        content = _read(self._key.lease)
        if content is not None and self._looks_dead(content) and _take_away(self._key.lease, content.token):
            with suppress(FileNotFoundError):
                _beat_path(self._key.lease, content.token).unlink()
            content = None
        if content is None and (lease := self._take()):
            self.holder = None
            return lease
        self.holder = content.owner if content else None
        return None

    def _looks_dead(self, content: _Content) -> bool:
        try:
            beat = _beat_path(self._key.lease, content.token).read_bytes()
        except FileNotFoundError:
            beat = b""
        seen = (content.token, beat)
        if seen != self._seen:
            self._seen, self._since = seen, time.monotonic()
        return time.monotonic() - self._since >= self._ttl

    def _take(self) -> Lease | None:
        token = fs.unique()
        path, beat_path = self._key.lease, _beat_path(self._key.lease, token)
        content = path.with_name(f".{path.name}.{token}")
        fs.write_new(content, msgspec.json.encode(_Content(token=token, owner=self._owner)))
        try:
            # It beats before it is held: a lease in place is never seen without a heartbeat.
            beat = Heartbeat(beat_path, self._ttl)
            try:
                with suppress(FileExistsError):
                    fs.link(content, path)
                # Not whether link(2) said so, but the number of links: NFS may lose the answer to what worked.
                mine = content.stat().st_nlink == 2
            except BaseException:
                mine = False
                raise
            finally:
                if not mine:
                    beat.stop()
                    beat_path.unlink()
        finally:
            content.unlink()
        return Lease(path, token, beat, self._touch) if mine else None


def _read(path: Path) -> _Content | None:
    """Who holds the lease; of a file that is none of ours a holder who never beats, so that it can be taken away."""
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return None
    try:
        content = decoding.json(data, _Content)
        if layout.is_unique(content.token):  # a file is called after it
            return content
    except msgspec.MsgspecError:
        pass
    return _Content(token="unreadable", owner=Owner(pod="an unreadable lease"))  # noqa: S106


def holder(path: Path) -> str | None:
    """Who holds the lease in this file, for people."""
    content = _read(path)
    return content.owner.pod if content else None


def _take_away(path: Path, token: str) -> bool:
    """Remove the lease if it is still that of `token`. To look and then remove could hit a newer one, so it is moved
    aside, looked at, and put back if it is another's (who may find it missing meanwhile and then does not publish)."""
    aside = path.with_name(f".{path.name}.{fs.unique()}")
    try:
        path.rename(aside)
    except FileNotFoundError:
        return False
    content = _read(aside)
    right = content is not None and content.token == token
    if not right:
        with suppress(FileExistsError):
            fs.link(aside, path)
    aside.unlink()
    return right


def _beat_path(path: Path, token: str) -> Path:
    return path.with_name(f"{path.name}.{token}.beat")
