"""At most one holder; the dead do not hold for ever; nobody's clock is believed."""

import errno
import os
import signal
import threading
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from patience import GUARD_SECONDS, until
from vernal_contract.reasons import Reason
from vernal_worker import threads
from vernal_worker.store import heartbeat
from vernal_worker.store.errors import StoreError
from vernal_worker.store.lease import Lease, Owner, holder

A, B = Owner(pod="a", node="n1"), Owner(pod="b", node="n2")


class Clock:
    """The monotonic clock that leases of this process go by: it stands still but for `advance`."""

    def __init__(self) -> None:
        self.now = 0.0
        self._patch = pytest.MonkeyPatch()
        for module in ("lease", "heartbeat"):
            self._patch.setattr(f"vernal_worker.store.{module}.time", SimpleNamespace(monotonic=lambda: self.now))

    def advance(self, seconds: float) -> None:
        self.now += seconds

    def undo(self) -> None:
        self._patch.undo()


@pytest.fixture
def clock() -> Any:
    clock = Clock()
    yield clock
    clock.undo()


def acquire(request: Any) -> Lease:
    lease = until("the lease", request.try_acquire)
    assert isinstance(lease, Lease)
    return lease


def test_one_holder(store: Any, identity: Any, host: Any, other_host: Any) -> None:
    with store.lease(identity, host, A).try_acquire() as lease:
        lease.check()
        request = store.lease(identity, host, B)
        assert request.try_acquire() is None
        assert request.holder == A
        with store.lease(identity, other_host, B).try_acquire() as other:
            other.check()
    assert list((store.root / "leases").iterdir()) == []
    request.try_acquire().release()
    lease.release()


def test_many_at_once(store: Any, identity: Any, host: Any, in_children: Any, tmp_path: Path) -> None:
    """Each that gets it makes a file alone; two at a time would collide."""
    alone = tmp_path / "alone"

    def run(seed: int) -> int:
        request = store.lease(identity, host, Owner(pod=str(seed)), ttl=100)
        for _ in range(5):
            with acquire(request) as lease:
                alone.touch(exist_ok=False)
                time.sleep(0.001)
                lease.check()
                alone.unlink()
        return 7

    assert in_children(run, list(range(6))) == [7] * 6


def test_live_holder_keeps_it(store: Any, identity: Any, host: Any, clock: Clock) -> None:
    """Another looks just before the heartbeat would be too old, again and again."""
    lease = store.lease(identity, host, A, ttl=0.3).try_acquire()
    request = store.lease(identity, host, B, ttl=0.3)
    for _ in range(10):
        assert request.try_acquire() is None
        lease.check()
        clock.advance(0.29)
        until("a heartbeat", lambda: lease._beat.last == clock.now)
    lease.release()


def test_dead_holder_loses_it_whatever_the_clocks_say(store: Any, identity: Any, host: Any) -> None:
    held, holds = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            store.lease(identity, host, A, ttl=0.5).try_acquire().check()
            os.write(holds, b"x")
            time.sleep(100)
        finally:
            os._exit(1)
    os.read(held, 1)
    leases = store.root / "leases"
    request = store.lease(identity, host, B, ttl=0.5)
    assert request.try_acquire() is None
    assert request.holder == A
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    for path in leases.iterdir():  # as if written by a machine that is a year ahead
        os.utime(path, (time.time() + 3e7,) * 2)
    clock = Clock()
    request = store.lease(identity, host, B, ttl=0.5)  # who looks for the first time believes nothing else
    assert request.try_acquire() is None
    clock.advance(0.49)
    assert request.try_acquire() is None
    clock.advance(0.02)
    with request.try_acquire() as lease:
        lease.check()
    clock.undo()
    assert list(leases.iterdir()) == []


def test_stopped_holder_notices_that_it_lost(store: Any, identity: Any, host: Any, in_children: Any) -> None:
    """As a virtual machine that was paused: it goes on, and must not publish."""
    r, w = os.pipe()
    looked, has_looked = os.pipe()

    def hold(_: int) -> int:
        lease = store.lease(identity, host, A, ttl=0.5).try_acquire()
        os.write(w, str(os.getpid()).encode())
        os.kill(os.getpid(), signal.SIGSTOP)
        try:
            lease.check()
        except StoreError as e:
            return 7 if e.reason == Reason.LEASE_LOST else 1
        finally:
            os.write(has_looked, b"x")
        return 2

    def steal(_: int) -> int:
        pid = int(os.read(r, 20))
        until("it to stop", lambda: Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "T")
        clock = Clock()
        request = store.lease(identity, host, B, ttl=0.5)
        if request.try_acquire() is not None:
            return 3
        clock.advance(0.5)
        lease = request.try_acquire()
        os.kill(pid, signal.SIGCONT)
        os.read(looked, 1)
        lease.check()
        return 7

    assert in_children(lambda which: which(0), [hold, steal]) == [7, 7]


def test_release_does_not_touch_a_newer_lease(store: Any, identity: Any, host: Any) -> None:
    old = store.lease(identity, host, A).try_acquire()
    (lease_file,) = (p for p in (store.root / "leases").iterdir() if p.suffix != ".beat")
    lease_file.unlink()
    new = store.lease(identity, host, B).try_acquire()
    with pytest.raises(StoreError, match="b holds it now"):
        old.check()
    old.release()
    new.check()
    new.release()


def test_a_late_heartbeat_alone_loses_nothing(
    store: Any, identity: Any, host: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is lost when another has taken it, not before."""
    late = threading.Event()

    def stale(*_: Any) -> None:
        late.set()
        raise OSError(116, "Stale file handle")

    monkeypatch.setattr("vernal_worker.store.heartbeat._write", stale)
    lease = store.lease(identity, host, A, ttl=0.3).try_acquire()
    request = store.lease(identity, host, B, ttl=0.3)
    assert request.try_acquire() is None
    for _ in range(8):  # more than its ttl
        late.clear()
        assert late.wait(GUARD_SECONDS)
    lease.check()
    other = acquire(request)
    with pytest.raises(StoreError, match="b holds it now") as e:
        lease.check()
    assert e.value.reason == Reason.LEASE_LOST
    lease.release()
    other.check()
    other.release()


def test_a_heartbeat_outlives_what_nobody_thought_of(
    store: Any, identity: Any, host: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that ends loses the lease of a freeze that goes on."""
    write, failures = heartbeat._write, [RuntimeError("planted"), MemoryError()]
    counts: list[int] = []

    def fails_first(fd: int, count: int) -> None:
        mine = Path(f"/proc/self/fd/{fd}").readlink().is_relative_to(tmp_path)  # not a lease that another test kept
        if mine and failures:
            raise failures.pop()
        write(fd, count)
        if mine:
            counts.append(count)

    monkeypatch.setattr("vernal_worker.store.heartbeat._write", fails_first)
    before = threads.failures["heartbeat"]
    lease = store.lease(identity, host, A, ttl=0.05).try_acquire()
    until("three beats", lambda: len(counts) >= 3)
    assert counts[:3] == [3, 4, 5], "no number comes twice"
    assert threads.failures["heartbeat"] == before + 2
    lease.check()
    lease.release()


def test_a_heartbeat_ends_though_the_storage_is_gone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """close(2) says then what became of the writes, and has freed the descriptor all the same: to close it again closes
    what another thread has opened meanwhile."""
    closed: list[int] = []
    os_close = os.close

    def close(fd: int) -> None:
        if fd != beat._fd:
            return os_close(fd)
        closed.append(fd)
        os_close(fd)
        raise OSError(errno.ENOTCONN, "Transport endpoint is not connected")

    beat = heartbeat.Heartbeat(tmp_path / "beat", ttl=0.1)
    with monkeypatch.context() as patched:
        patched.setattr(os, "close", close)
        beat.stop()
        until("the heartbeat to end", lambda: closed and (not beat._thread.is_alive() or len(closed) > 1))
    assert len(closed) == 1


def test_a_lease_that_was_given_back_is_held_no_more(store: Any, identity: Any, host: Any) -> None:
    lease = store.lease(identity, host, A).try_acquire()
    lease.release()
    with pytest.raises(StoreError, match="given back"):
        lease.check()


@pytest.mark.parametrize(
    "garbage",
    [
        b"\0",
        b'{"token":"\xff","owner":{"pod":"p"}}',
        b"[" * 100_000,
        b'{"token":"/../../outside","owner":{"pod":"p"}}',
        b'{"token":"\\u0000","owner":{"pod":"p"}}',
    ],
    ids=["no JSON", "no UTF-8", "lists without end", "a path", "a NUL"],
)
def test_garbage_in_place_of_a_lease(garbage: bytes, store: Any, identity: Any, host: Any) -> None:
    store.lease(identity, host, A).try_acquire().release()
    lease = store.lease(identity, host, A).try_acquire()
    (lease_file,) = (p for p in (store.root / "leases").iterdir() if p.suffix != ".beat")
    lease_file.write_bytes(garbage)
    assert holder(lease_file) == "an unreadable lease"
    request = store.lease(identity, host, B, ttl=0.2)
    acquire(request).release()
    lease.release()


def test_no_hard_links_says_what_to_run(store: Any, identity: Any, host: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", refused)
    with pytest.raises(StoreError, match=r"no hard links here .*doctor --store") as error:
        store.lease(identity, host, A).try_acquire()
    assert error.value.reason is Reason.STORE_UNAVAILABLE
    assert list((store.root / "leases").iterdir()) == []
