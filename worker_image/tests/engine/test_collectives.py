"""What of the collectives needs no GPU: how ranks meet, and how work is divided."""

import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from vernal_worker.engine.collectives.kernel import BLOCKS, SLOT, UNIT, piece_of
from vernal_worker.engine.collectives.rendezvous import Meeting, MeetingError


def both(work: Callable[[int], object]) -> list[object]:
    with ThreadPoolExecutor(2) as pool:
        return list(pool.map(work, (0, 1)))


def test_ranks_trade_descriptors(tmp_path: Path) -> None:
    path = tmp_path / "meet.sock"
    path.touch()  # left behind by one that was killed

    def rank(number: int) -> bytes:
        reader, writer = os.pipe()
        with Meeting(path, number, 10) as meeting:
            note, fd = meeting.trade(b"m", writer)
            assert note == b"m" and fd is not None
            assert meeting.trade(b"n") == (b"n", None)
            assert meeting.agree(True)
            assert not meeting.agree(number == 0)
            os.write(fd, b"from %d" % number)
            said = os.read(reader, 100)
        for each in (fd, reader, writer):
            os.close(each)
        return said

    assert both(rank) == [b"from 1", b"from 0"]
    assert not list(tmp_path.iterdir()), "the socket is left behind"


def test_a_rank_that_does_not_come_is_no_hang(tmp_path: Path) -> None:
    for number in (0, 1):
        with pytest.raises(MeetingError, match=r"did not come to .*meet\.sock"):
            Meeting(tmp_path / "meet.sock", number, 0.1)
    assert not list(tmp_path.iterdir())


def test_a_rank_that_goes_away_is_told(tmp_path: Path) -> None:
    gone = threading.Event()

    def rank(number: int) -> None:
        with Meeting(tmp_path / "meet.sock", number, 10) as meeting:
            if number == 0:
                gone.set()
                return
            gone.wait()
            with pytest.raises(MeetingError):
                while True:
                    meeting.trade(b"x")

    both(rank)


@given(st.integers(1, 1 << 40))
def test_pieces_fit_into_slots_and_small_tensors_use_many_blocks(count: int) -> None:
    piece = piece_of(count)
    assert 0 < piece <= SLOT // UNIT
    pieces = -(-count // piece)
    assert pieces >= min(BLOCKS, count // 512) // 2
