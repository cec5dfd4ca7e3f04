"""Which files are in huge pages already. That a GPU copies from them is in `gpu/test_filling.py`."""

import ctypes
import os
import subprocess
from pathlib import Path

import pytest
from vernal_worker.checkpoint.cuda.pinned import HUGE, Pinned, in_huge_pages
from vernal_worker.checkpoint.cuda.transfer import Source


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to mount a tmpfs")
@pytest.mark.parametrize(("options", "expected"), [("huge=always", True), ("huge=never", False)])
def test_of_a_tmpfs_its_huge_pages_count(tmp_path: Path, options: str, expected: bool) -> None:
    mount = ["mount", "-n", "-t", "tmpfs", "-o", f"size=16m,{options}", "vernal-test", str(tmp_path)]
    if subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("tmpfs with huge pages: this kernel has none")
    try:
        (tmp_path / "file").write_bytes(b"x" * HUGE)
        with (tmp_path / "file").open("rb") as file:
            assert in_huge_pages(file.fileno()) is expected
            for wanted in (True, False):
                source = Source([tmp_path / "file"], pin=wanted)
                assert source.in_memory is (expected and wanted)
                source.close()
            subprocess.run(["umount", "-n", "-l", tmp_path], check=True)  # as a worker does with its cache
            assert in_huge_pages(file.fileno()) is expected
    finally:
        subprocess.run(["umount", "-n", "-l", tmp_path], capture_output=True)


def test_other_files_are_not(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"x" * HUGE)
    with (tmp_path / "file").open("rb") as file:
        assert not in_huge_pages(file.fileno())


def test_what_is_beyond_the_end_is_not_asked_for(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"0123456789")
    with (tmp_path / "file").open("rb") as file:
        found = Pinned(file.fileno())
    assert found.at(5, 6) is None
    assert ctypes.string_at(found._address, 10) == b"0123456789"
