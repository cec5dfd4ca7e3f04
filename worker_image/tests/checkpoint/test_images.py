"""Pages of zeros leave the images, and nothing else does."""

import itertools
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from vernal_worker.checkpoint.images import (
    Area,
    Entry,
    advise_huge,
    read_pagemap,
    runs_with_content,
    split,
    write_pagemap,
)
from vernal_worker.checkpoint.memory import cut
from vernal_worker.checkpoint.taken import PAGE

contents = st.lists(st.tuples(st.booleans(), st.integers(1, 200)), max_size=6).map(
    lambda runs: [zero for zero, count in runs for _ in range(count)]
)


@given(contents, st.integers(0, 3))
def test_every_page_with_content_is_in_exactly_one_run(zeros: list[bool], before: int) -> None:
    data = b"\1" * PAGE * before + b"".join(bytes(PAGE) if zero else b"\0" * (PAGE - 1) + b"\7" for zero in zeros)
    runs = list(runs_with_content(data, before * PAGE, len(zeros)))
    kept = [page for first, count in runs for page in range(first, first + count)]
    assert kept == [page for page, zero in enumerate(zeros) if not zero]
    assert all(first + count < start for (first, count), (start, _) in itertools.pairwise(runs))


@given(
    st.integers(1, 2**31),
    st.lists(st.builds(Entry, st.integers(0, 2**47 // PAGE).map(PAGE.__mul__), st.integers(1, 2**31))),
)
def test_a_pagemap_is_read_as_it_was_written(pages_id: int, entries: list[Entry]) -> None:
    assert read_pagemap(write_pagemap(pages_id, entries)) == (pages_id, entries)


areas = st.lists(st.tuples(st.integers(0, 3), st.integers(1, 5)), max_size=6).map(
    lambda gaps: [
        Area(PAGE * (end - pages), PAGE * end, fillable=True)
        for (_, pages), end in zip(gaps, itertools.accumulate(gap + pages for gap, pages in gaps), strict=True)
    ]
)


@given(st.integers(0, 20), st.integers(1, 20), areas)
def test_an_entry_is_split_where_areas_begin_and_end(first: int, pages: int, areas: list[Area]) -> None:
    found: dict[int, Area | None] = {}
    for part, area in split(Entry(first * PAGE, pages), areas):
        for page in range(part.pages):
            assert found.setdefault(part.address + page * PAGE, area) is area
    expected = {
        page * PAGE: next((area for area in areas if area.start <= page * PAGE < area.end), None)
        for page in range(first, first + pages)
    }
    assert found == expected


@given(st.lists(st.integers(1, 9), max_size=20), st.integers(1, 6), st.integers(1, 15))
def test_pieces_hold_every_page_once_and_in_order(sizes: list[int], most: int, within: int) -> None:
    runs = [(PAGE * 100 * number, pages) for number, pages in enumerate(sizes)]
    pages = [address + PAGE * page for address, count in runs for page in range(count)]
    found: list[int] = []
    for offset, piece in cut(runs, most, within):
        assert offset == PAGE * len(found)
        size = sum(count for _, count in piece)
        assert 0 < size <= most
        assert len(found) // within == (len(found) + size - 1) // within, "it is in two stretches"
        found += (address + PAGE * page for address, count in piece for page in range(count))
    assert found == pages


@pytest.mark.integration
def test_memory_is_the_same_without_its_zeros(pods: Any, tmp_path: Path) -> None:
    """The subject's state holds checksums of its memory; 32 MiB of it were used and are zeros again, for which the
    kernel is asked for huge pages."""
    source = pods()
    source.launch()
    before = source.ask("state")
    frozen = source.freeze("image")
    assert frozen["bytes"] < 32 << 20, "the zeros are in the image"
    for image in (tmp_path / "image" / "criu").glob("mm-*.img"):
        assert advise_huge(image.read_bytes(), ()) == image.read_bytes(), "not written as it was read"
    assert not source.huge_areas()
    pod = pods()
    pod.thaw("image")
    assert {**before, "count": 0} == {**pod.ask("state"), "count": 0}
    assert any(32 <= size < 48 for size in pod.huge_areas())


@pytest.mark.integration
def test_large_memory_comes_from_its_own_file(pods: Any, pod_error: Any, frozen_in: Any, tmp_path: Path) -> None:
    """And without that file's bytes there is no tree."""
    source = pods()
    source.launch(ballast_mib=64)
    before = source.ask("state")
    source.freeze("image")
    memories = frozen_in(tmp_path / "image").memory  # children that were forked have their parent's, too
    memory = max(memories, key=lambda memory: memory.bytes)
    assert 64 << 20 <= memory.bytes == (tmp_path / "image" / memory.file).stat().st_size
    assert sum(path.stat().st_size for path in (tmp_path / "image" / "criu").iterdir()) < 16 << 20
    pod = pods()
    assert pod.thaw("image")["memory"] > 0
    assert {**before, "count": 0} == {**pod.ask("state"), "count": 0}
    os.truncate(tmp_path / "image" / memory.file, 1 << 20)
    with pytest.raises(pod_error, match="ends early") as caught:
        pods().thaw("image")
    assert (caught.value.reason, caught.value.stage) == ("FileSizeMismatch", "memory")
