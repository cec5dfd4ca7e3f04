"""Storage that does not answer: whoever asks it goes on without.

A FIFO that nobody writes to stands for it: to open it for reading waits in the kernel for as long as the test likes.
"""

import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from vernal_contract.reasons import Reason
from vernal_worker.store.errors import StoreError
from vernal_worker.store.lease import Lease, Owner
from vernal_worker.store.store import Store


@pytest.fixture
def impatient(tmp_path: Path) -> Store:
    """Only for calls that hang: others may take longer than that where cores are few."""
    return Store(tmp_path, patience=0.5)


def hang(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def go_on(path: Path) -> None:
    """Whoever still waits gets an empty file."""
    os.close(os.open(path, os.O_RDWR | os.O_NONBLOCK))


def assert_slow(call: Callable[[], Any], stage: str) -> None:
    with pytest.raises(StoreError) as error:
        call()
    assert (error.value.reason, error.value.stage) == (Reason.STORE_SLOW, stage)
    assert "has not answered for 0.5 s" in error.value.message


def test_find(store: Store, impatient: Store, identity: Any, host: Any, filled: Any) -> None:
    artifact = filled(store.stage(identity, host)).publish(created_by="a").artifact
    manifest = artifact.path / "manifest.json"
    hang(manifest)
    assert_slow(lambda: impatient.find(identity, host), "find")
    go_on(manifest)


def test_find_is_given_up_when_the_worker_is_told_to_stop(
    tmp_path: Path, identity: Any, host: Any, filled: Any
) -> None:
    cancel = threading.Event()
    store = Store(tmp_path, patience=600, cancel=cancel)
    artifact = filled(store.stage(identity, host)).publish(created_by="a").artifact
    manifest = artifact.path / "manifest.json"
    hang(manifest)
    cancel.set()
    with pytest.raises(StoreError) as error:
        store.find(identity, host)
    assert error.value.reason is Reason.THAW_GIVEN_UP
    go_on(manifest)


def test_asking_for_the_lease(store: Store, impatient: Store, identity: Any, host: Any) -> None:
    lease = store.lease(identity, host, Owner(pod="a")).try_acquire()
    assert lease is not None
    hang(lease_file(store))
    assert_slow(lambda: impatient.lease(identity, host, Owner(pod="b")).try_acquire(), "lease")
    go_on(lease_file(store))
    lease_file(store).unlink()
    lease.release()


def test_looking_after_the_lease(store: Store, impatient: Store, identity: Any, host: Any) -> None:
    lease = store.lease(identity, host, Owner(pod="a")).try_acquire()
    assert isinstance(lease, Lease)
    lease._touch = impatient._touch
    hang(lease_file(store))
    assert_slow(lease.check, "lease")
    go_on(lease_file(store))
    lease_file(store).unlink()
    lease.release()


def lease_file(store: Store) -> Path:
    (file,) = (path for path in (store.root / "leases").iterdir() if path.suffix != ".beat")
    return file


def test_failures(store: Store, impatient: Store, identity: Any, host: Any, filled: Any) -> None:
    artifact = filled(store.stage(identity, host)).publish(created_by="a").artifact

    def record(to: Store) -> Any:
        return to.record_failure(
            identity, host, artifact.generation, stage="s", reason=Reason.DIGEST_MISMATCH, message="", worker="w"
        )

    record(store)
    (file,) = store.root.glob("artifacts/*/*/failures/*/*.json")
    hang(file)
    assert_slow(lambda: record(impatient), "failures")
    go_on(file)


def test_publishing(tmp_path: Path, identity: Any, host: Any, filled: Any) -> None:
    """What comes of it later is not published."""
    store = Store(tmp_path)  # its calls wait for ever
    lease = store.lease(identity, host, Owner(pod="a")).try_acquire()
    assert lease is not None
    file = lease_file(store)
    hang(file)
    staging = filled(store.stage(identity, host))
    with pytest.raises(StoreError) as error:
        staging.publish(created_by="a", lease=lease, timeout=0.5)
    assert (error.value.reason, error.value.stage) == (Reason.STORE_SLOW, "publish")
    assert not staging.dir.exists()
    go_on(file)
    assert store.find(identity, host).reason is Reason.NO_ARTIFACT
    file.unlink()
    lease.release()
