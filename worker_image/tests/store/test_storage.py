"""Storage that is full, read-only or gone: an error with the right reason, and nothing left behind."""

import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from vernal_contract.reasons import Reason
from vernal_worker.store.errors import StoreError
from vernal_worker.store.lease import Owner
from vernal_worker.store.store import Store


def test_root_is_not_there(tmp_path: Path, identity: Any, host: Any) -> None:
    store = Store(tmp_path / "nowhere")
    for call in (
        lambda: store.find(identity, host),
        lambda: store.stage(identity, host),
        lambda: store.lease(identity, host, Owner(pod="p")).try_acquire(),
        lambda: store.gc(),
    ):
        with pytest.raises(StoreError, match="nowhere") as e:
            call()
        assert e.value.reason == Reason.STORE_UNAVAILABLE
    assert not store.root.exists(), "making it would hide that the volume is not mounted"


@pytest.fixture
def small(tmpfs: Callable[[str], Path]) -> Store:
    return Store(tmpfs("size=256k"))


@pytest.mark.integration
def test_full(small: Store, identity: Any, host: Any, filled: Any) -> None:
    artifact = filled(small.stage(identity, host)).publish(created_by="a").artifact
    for _ in range(3):
        small.record_failure(
            identity, host, artifact.generation, stage="s", reason=Reason.DIGEST_MISMATCH, message="", worker="w"
        )
    staging = filled(small.stage(identity, host))
    with pytest.raises(OSError, match="No space left"):
        (staging.dir / "big").write_bytes(b"x" * (1 << 20))
    with pytest.raises(StoreError) as e:
        staging.publish(created_by="b")
    assert (e.value.reason, e.value.stage) == (Reason.STORE_FULL, "publish")
    assert not staging.dir.exists()
    filled(small.stage(identity, host)).publish(created_by="c").artifact.verify()
    with (small.root / "ballast").open("wb") as f:
        f.write(b"x" * (os.statvfs(small.root).f_bavail * 4096))
    artifact = small.find(identity, host).artifact  # type: ignore[assignment]  # reading a full store still works
    artifact.verify()
    for call in (
        lambda: small.stage(identity, host).publish(created_by="d"),
        lambda: small.lease(identity, host, Owner(pod="p")).try_acquire(),
    ):
        with pytest.raises(StoreError) as e:
            call()
        assert e.value.reason == Reason.STORE_FULL


@pytest.mark.integration
def test_read_only(small: Store, identity: Any, host: Any, filled: Any) -> None:
    artifact = filled(small.stage(identity, host)).publish(created_by="a").artifact
    staging = filled(small.stage(identity, host))
    subprocess.run(["mount", "-o", "remount,ro", small.root], check=True)
    assert small.find(identity, host).artifact == artifact
    artifact.verify()
    for call in (
        lambda: staging.publish(created_by="b"),
        lambda: small.stage(identity, host),
        lambda: small.lease(identity, host, Owner(pod="p")).try_acquire(),
        lambda: small.record_failure(
            identity, host, artifact.generation, stage="s", reason=Reason.DIGEST_MISMATCH, message="", worker="w"
        ),
        lambda: small.gc(),
    ):
        with pytest.raises(StoreError) as e:
            call()
        assert e.value.reason == Reason.STORE_READ_ONLY
