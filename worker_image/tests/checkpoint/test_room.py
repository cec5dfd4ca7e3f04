"""Shared memory is laid back only where it has room: the holes too."""

import os
import stat
from pathlib import Path

import pytest
from vernal_contract.reasons import Reason
from vernal_worker.checkpoint import carry
from vernal_worker.checkpoint.carry import Carried
from vernal_worker.checkpoint.errors import CheckpointError


def sparse(path: Path, size: int) -> Carried:
    return Carried(path=str(path), mode=stat.S_IFREG | 0o600, uid=os.getuid(), gid=os.getgid(), mtime_ns=0, size=size)


def test_a_sparse_file_needs_the_room_of_a_full_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without it the engine is ready, and is killed with SIGBUS once it fills its queues."""
    monkeypatch.setattr(carry, "SHM", tmp_path)
    data = tmp_path / "data"
    data.touch()
    info = os.statvfs(tmp_path)
    free = info.f_frsize * info.f_bavail
    small, large = tmp_path / "psm_1", tmp_path / "psm_2"
    with pytest.raises(CheckpointError) as error:
        carry.lay([sparse(small, 1 << 20), sparse(large, free)], data, lambda: None)
    assert error.value.reason is Reason.SHM_FAILED and "MiB needed" in error.value.message
    assert not small.exists() and not large.exists(), "nothing was begun"
    carry.lay([sparse(small, 1 << 20)], data, lambda: None)
    assert small.stat().st_size == 1 << 20


def test_what_is_not_laid_back_needs_no_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After a thaw that failed of a small /dev/shm, the compiled kernels are of use all the same."""
    monkeypatch.setattr(carry, "SHM", tmp_path / "shm")
    for place in ("shm", "cache"):
        (tmp_path / place).mkdir()
    (tmp_path / "data").touch()
    info = os.statvfs(tmp_path)
    large = sparse(tmp_path / "shm" / "psm_1", info.f_frsize * info.f_blocks * 2)
    kernel = sparse(tmp_path / "cache" / "kernel.so", 4096)
    carry.lay([large, kernel], tmp_path / "data", lambda: None, below=tmp_path / "cache")
    assert Path(kernel.path).stat().st_size == 4096 and not Path(large.path).exists()


def test_other_places_need_no_room_for_holes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(carry, "SHM", tmp_path / "shm")
    (tmp_path / "shm").mkdir()
    (tmp_path / "data").touch()
    info = os.statvfs(tmp_path)
    carry.lay([sparse(tmp_path / "hole", info.f_frsize * info.f_blocks * 2)], tmp_path / "data", lambda: None)
