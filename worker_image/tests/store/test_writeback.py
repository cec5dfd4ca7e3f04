"""What is written below a directory goes to the disk without fsync(2)."""

import ctypes
import os
import struct
import time
from pathlib import Path

import pytest
from vernal_worker.store.writeback import write_back

CACHESTAT = 451  # cachestat(2), Linux 6.5


def test_new_files_go_to_the_disk_meanwhile(tmp_path: Path) -> None:
    early, late, skipped = tmp_path / "early", tmp_path / "below" / "late", tmp_path / "skipped" / "file"
    for path in (early, late, skipped):
        path.parent.mkdir(exist_ok=True)
    early.write_bytes(os.urandom(1 << 20))
    if not _dirty(early):
        pytest.skip("needs a disk: here written files are not dirty")
    with write_back(tmp_path, skip=[tmp_path / "skipped"]):
        late.write_bytes(os.urandom(1 << 20))
        skipped.write_bytes(os.urandom(1 << 20))
        deadline = time.monotonic() + 15  # the kernel itself begins after 30 s
        while _dirty(early) + _dirty(late) and time.monotonic() < deadline:
            time.sleep(0.05)
        assert (_dirty(early), _dirty(late)) == (0, 0)
        assert _dirty(skipped) == 1 << 20
    time.sleep(0.2)
    after = tmp_path / "after"
    after.write_bytes(os.urandom(1 << 20))
    time.sleep(0.5)
    assert _dirty(after) == 1 << 20, "it goes on"


def _dirty(path: Path) -> int:
    """Bytes in the page cache that nobody has begun to write to the disk."""
    result = (ctypes.c_uint64 * 5)()  # cached, dirty, under write-back, evicted, recently evicted pages
    libc = ctypes.CDLL(None, use_errno=True)
    with path.open("rb") as file:
        span = ctypes.create_string_buffer(struct.pack("QQ", 0, 0))
        if libc.syscall(CACHESTAT, file.fileno(), span, result, 0) != 0:
            pytest.skip(f"needs Linux 6.5: cachestat: {os.strerror(ctypes.get_errno())}")
    return int(result[1]) * os.sysconf("SC_PAGESIZE")
