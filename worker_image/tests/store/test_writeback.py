"""What is written below a directory goes to the disk without fsync(2)."""

import ctypes
import os
import struct
import threading
from pathlib import Path
from typing import Any

import pytest
from patience import until
from vernal_worker.store import writeback
from vernal_worker.store.writeback import write_back

CACHESTAT = 451  # cachestat(2), Linux 6.5


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> set[Path]:
    """The files that the kernel was asked to write; it is asked."""
    paths, ask = set[Path](), writeback._sync_file_range
    if ask is None:
        pytest.skip("needs sync_file_range(2)")

    def told(fd: int, *arguments: Any) -> int:
        paths.add(Path(f"/proc/self/fd/{fd}").readlink())
        return ask(fd, *arguments)

    monkeypatch.setattr(writeback, "_sync_file_range", told)
    return paths


def test_new_files_go_to_the_disk_meanwhile(tmp_path: Path, asked: set[Path]) -> None:
    early, late, skipped = tmp_path / "early", tmp_path / "below" / "late", tmp_path / "skipped" / "file"
    for path in (early, late, skipped):
        path.parent.mkdir(exist_ok=True)
    early.write_bytes(os.urandom(1 << 20))
    if not _dirty(early):
        pytest.skip("needs a disk: here written files are not dirty")
    with write_back(tmp_path, skip=[tmp_path / "skipped"]):
        late.write_bytes(os.urandom(1 << 20))
        skipped.write_bytes(os.urandom(1 << 20))
        until("both to be asked for", lambda: {early, late} <= asked)
        until("both to be on their way", lambda: _dirty(early) + _dirty(late) == 0)
    until("its thread to end", lambda: not any(thread.name == "write-back" for thread in threading.enumerate()))
    assert skipped not in asked


def _dirty(path: Path) -> int:
    """Bytes in the page cache that nobody has begun to write to the disk."""
    result = (ctypes.c_uint64 * 5)()  # cached, dirty, under write-back, evicted, recently evicted pages
    libc = ctypes.CDLL(None, use_errno=True)
    with path.open("rb") as file:
        span = ctypes.create_string_buffer(struct.pack("QQ", 0, 0))
        if libc.syscall(CACHESTAT, file.fileno(), span, result, 0) != 0:
            pytest.skip(f"needs Linux 6.5: cachestat: {os.strerror(ctypes.get_errno())}")
    return int(result[1]) * os.sysconf("SC_PAGESIZE")
