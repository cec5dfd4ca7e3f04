"""What a restore needs of mapped files is read ahead."""

import ctypes
import itertools
import mmap
import os
from pathlib import Path
from typing import Any

import pytest
from fuzz.limits import bounded, touched
from hypothesis import given
from hypothesis import strategies as st
from patience import until
from vernal_worker.checkpoint import reading_ahead
from vernal_worker.checkpoint.images import Entry
from vernal_worker.checkpoint.mapped import changed, join
from vernal_worker.checkpoint.procfs import FileArea, file_areas, used
from vernal_worker.checkpoint.reading_ahead import MappedFile, read_ahead
from vernal_worker.checkpoint.taken import PAGE

ranges = st.lists(st.tuples(st.integers(0, 1 << 20), st.integers(1, 1 << 18)), max_size=8)


@given(ranges)
def test_joined_ranges_hold_everything_in_order_and_apart(ranges: list[tuple[int, int]]) -> None:
    joined = join(ranges)
    assert all(any(a <= offset and offset + length <= a + b for a, b in joined) for offset, length in ranges)
    assert all(a + b < c for (a, b), (c, _) in itertools.pairwise(joined))
    assert sum(length for _, length in joined) <= max((sum(r) for r in ranges), default=0)


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(1, 5)), max_size=8), st.integers(0, 30), st.integers(1, 10))
def test_changed_pages_of_a_file_are_those_in_the_image(gaps: list[tuple[int, int]], first: int, pages: int) -> None:
    entries, at = [], 0
    for gap, count in gaps:
        entries.append(Entry((at + gap) * PAGE, count))
        at += gap + count
    area = FileArea(first * PAGE, (first + pages) * PAGE, 7 * PAGE, "/lib")
    found = {offset + at for offset, length in changed(area, entries) for at in range(0, length, PAGE)}
    present = {entry.address // PAGE + page for entry in entries for page in range(entry.pages)}
    assert found == {(7 + page - first) * PAGE for page in present if first <= page < first + pages}


def test_used_pages_are_those_that_the_process_looked_at(tmp_path: Path) -> None:
    file = tmp_path / "data"
    pages = 16384
    file.write_bytes(bytes(pages * PAGE))
    with file.open("rb") as opened, mmap.mmap(opened.fileno(), 0, mmap.MAP_PRIVATE, mmap.PROT_READ) as data:
        data.madvise(mmap.MADV_RANDOM)
        looked_at = {0, 1, 700, pages - 1}
        assert not any(data[page * PAGE] for page in looked_at)
        (area,) = (area for area in file_areas(os.getpid()) if area.path == str(file))
        found = {offset + at for offset, length in used(os.getpid(), area) for at in range(0, length, PAGE)}
    assert {page * PAGE for page in looked_at} <= found
    far = range(pages // 4 * PAGE, pages // 4 * 3 * PAGE, PAGE)  # the kernel maps up to 2 MiB around a page at once
    assert not found.intersection(far)
    assert list(used(0, area)) == []


@pytest.mark.parametrize("later", [False, True])
def test_what_is_read_ahead_gets_into_the_page_cache(tmp_path: Path, later: bool) -> None:
    file = tmp_path / "library"
    file.write_bytes(os.urandom(64 << 20))
    with file.open("rb") as opened:
        os.fsync(opened.fileno())
        os.posix_fadvise(opened.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    wanted, other = ((4 << 20, 1 << 20), (20 << 20, 20 << 20)), (60 << 20, 1 << 20)
    assert _resident(file, 0, 64 << 20) == 0, "a file system without a page cache"
    with file.open("rb") as opened:  # somebody has been here, as CRIU has in a library's head
        os.posix_fadvise(opened.fileno(), 0, 0, os.POSIX_FADV_RANDOM)
        os.pread(opened.fileno(), 1, 28 << 20)
    files = [MappedFile(str(tmp_path / "gone"), ((0, PAGE),)), MappedFile(str(file), wanted)]
    read_ahead([] if later else files, files if later else [])
    until("what is wanted to be read", lambda: all(_resident(file, *each) >= 1 for each in wanted))
    assert [_resident(file, *each) for each in (*wanted, other)] == [1, 1, 0]


@pytest.mark.integration
def test_a_checkpoint_says_what_to_read_of_libraries(pods: Any, frozen_in: Any, tmp_path: Path) -> None:
    source = pods()
    source.launch()
    source.freeze("image")
    frozen = frozen_in(tmp_path / "image")
    mapped = {file.path: file.ranges for file in frozen.mapped}
    library = next(path for path in mapped if "/libc.so" in path)
    assert mapped[library][0][0] == 0, "its head"
    assert sum(length for _, length in mapped[library]) > PAGE, "its changed data"
    (code,) = (file for file in frozen.code if file.path == library)
    assert sum(length for _, length in code.ranges) > 256 << 10


def _resident(path: Path, offset: int, length: int) -> float:
    """Which part of it the page cache holds (mincore(2))."""
    access = mmap.PROT_READ | mmap.PROT_WRITE
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, mmap.MAP_PRIVATE, access) as data:
        address = ctypes.addressof(ctypes.c_char.from_buffer(data)) + offset
        vector = (ctypes.c_ubyte * (length // PAGE))()
        result = ctypes.CDLL(None, use_errno=True).mincore(ctypes.c_void_p(address), ctypes.c_size_t(length), vector)
        assert result == 0, os.strerror(ctypes.get_errno())
        return sum(entry & 1 for entry in vector) / len(vector)


def test_a_range_is_as_long_as_its_file_and_what_is_no_file_is_not_opened(tmp_path: Path) -> None:
    """A list may say anything: what is asked for is bounded by what is there."""
    file, fifo = tmp_path / "file", tmp_path / "fifo"
    file.write_bytes(bytes(10_000))
    os.mkfifo(fifo)
    with bounded(), touched() as paths:
        for path in (file, fifo, Path("/dev/null")):
            for ranges in (((0, 2**62),), ((2**62, 5),)):
                reading_ahead._ask(MappedFile(str(path), ranges))
                reading_ahead._ask_slowly(MappedFile(str(path), ranges), 0)
    assert set(paths) == {str(file)}
