"""Shared memory of an engine whose container crashed does not outlive the next start in the pod."""

from pathlib import Path

import pytest
from vernal_worker.supervisor import leftovers


@pytest.fixture
def shm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    directory = tmp_path / "shm"
    directory.mkdir()
    monkeypatch.setattr(leftovers, "SHM", directory)
    return directory


def test_what_a_crashed_container_left_is_swept_and_what_was_there_before_it_is_not(shm: Path, tmp_path: Path) -> None:
    (shm / "psm_of_a_sidecar").touch()
    leftovers.sweep(leftovers.first_seen(tmp_path))
    for name in ("psm_1234", "sem.mp-5", "torch_7", "something else"):
        (shm / name).touch()  # the container crashes here
    leftovers.sweep(leftovers.first_seen(tmp_path))
    assert leftovers.names() == {"psm_of_a_sidecar", "something else"}


def test_an_empty_beginning_is_remembered_too(shm: Path, tmp_path: Path) -> None:
    leftovers.sweep(leftovers.first_seen(tmp_path))
    (shm / "psm_1").touch()
    leftovers.sweep(leftovers.first_seen(tmp_path))
    assert leftovers.names() == set()
