"""What of GPU memory is where in a file, and which hosts are refused: no GPU needed."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from vernal_worker.checkpoint.cuda.client import driver_problem
from vernal_worker.checkpoint.cuda.layout import FILE_BYTES, Rank, Segment, file_names, in_turn, ranges, spans
from vernal_worker.store.pieces import PIECE

sizes = st.lists(st.integers(0, 40), max_size=12)


@given(sizes, st.integers(1, 17))
def test_pieces_cover_every_byte_of_every_segment_once(segments: list[int], piece: int) -> None:
    seen: list[tuple[int, int]] = []
    for offset, length in ranges(sum(segments), piece):
        found = list(spans(segments, offset, length))
        assert sum(span.length for span in found) == length
        seen += [(span.index, span.start + i) for span in found for i in range(span.length)]
    assert seen == [(index, i) for index, size in enumerate(segments) for i in range(size)]


def test_only_weights_are_in_the_files() -> None:
    rank = Rank(file="rank-0", segments=(Segment("weights", 4), Segment("kv_cache", 9), Segment("weights", 2)))
    assert rank.bytes == 6
    assert [segment.size for segment in rank.stored] == [4, 2]
    assert rank.files == ["rank-0-0.bin"]


@given(st.integers(0, 9 << 30).map(lambda size: size // (2 << 20) * (2 << 20)))
def test_no_piece_is_in_two_files_and_they_take_turns(size: int) -> None:
    assert FILE_BYTES % PIECE == 0
    names = file_names("rank-1", size)
    assert (len(names) - 1) * FILE_BYTES < size <= len(names) * FILE_BYTES or size == len(names) == 0
    pieces = ranges(size, PIECE)
    order = in_turn(pieces)
    assert sorted(order) == list(range(len(pieces)))
    files = [pieces[number][0] // FILE_BYTES for number in order]
    assert all(pieces[n][0] // FILE_BYTES == (sum(pieces[n]) - 1) // FILE_BYTES for n in order)
    turns = files[: size % FILE_BYTES // PIECE * len(names)]  # all files have pieces left
    assert len(names) < 2 or all(one != other for one, other in pairwise(turns))


@pytest.mark.parametrize("driver", [None, "570.86.10", "580.159.04", "610.57"])
def test_drivers_that_can(driver: str | None) -> None:
    assert driver_problem(driver) is None


@pytest.mark.parametrize("driver", ["550.54.14", "535.183"])
def test_drivers_that_cannot_are_told_what_is_needed(driver: str) -> None:
    problem = driver_problem(driver)
    assert problem is not None and driver in problem and "570 or newer" in problem
