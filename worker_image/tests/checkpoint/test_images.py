"""Pages of zeros leave the images, and nothing else does."""

import itertools
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from thaw_worker.checkpoint.images import PAGE, Entry, advise_huge, read_pagemap, runs_with_content, write_pagemap

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
    (huge,) = pod.huge_areas()
    assert huge >= 32
