"""What of the collectives needs no GPU: how ranks meet, how work is divided, and what is added to what."""

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

counts = pytest.mark.parametrize("ranks", [2, 3, 8])


def together(ranks: int, work: Callable[[int], object]) -> list[object]:
    with ThreadPoolExecutor(ranks) as pool:
        return list(pool.map(work, range(ranks)))


@counts
def test_ranks_trade_descriptors(tmp_path: Path, ranks: int) -> None:
    """Each hands the writing end of a pipe to all others, with a number, and hears from each of them."""
    (tmp_path / "meet-0-1.sock").touch()  # left behind by one that was killed
    written = threading.Barrier(ranks)

    def rank(number: int) -> set[bytes]:
        reader, writer = os.pipe()
        with Meeting(tmp_path / "meet", number, ranks, 60) as meeting:
            offered = meeting.trade(writer, 247 + number)
            others = [other for other in range(ranks) if other != number]
            assert {rank: note for rank, (_, note) in offered.items()} == {other: 247 + other for other in others}
            fds = [fd for fd, _ in offered.values()]
            assert meeting.trade(None) == {}
            assert meeting.agree(True)
            assert not meeting.agree(number != ranks - 1), "one of them does not agree"
        for fd in fds:
            os.write(fd, b"%d" % number)
        written.wait(60)
        said = os.read(reader, 100)
        for each in (*fds, reader, writer):
            os.close(each)
        return {said[i : i + 1] for i in range(len(said))}

    heard = together(ranks, rank)
    assert heard == [{b"%d" % other for other in range(ranks) if other != number} for number in range(ranks)]
    assert not list(tmp_path.iterdir()), "a socket is left behind"


@counts
def test_a_rank_that_does_not_come_is_no_hang(tmp_path: Path, ranks: int) -> None:
    for number in range(ranks):
        with pytest.raises(MeetingError, match=r"did not come to .*meet-\d-\d\.sock"):
            Meeting(tmp_path / "meet", number, ranks, 0.1)
    assert not list(tmp_path.iterdir())


@counts
def test_a_rank_that_goes_away_is_told(tmp_path: Path, ranks: int) -> None:
    def rank(number: int) -> None:
        with Meeting(tmp_path / "meet", number, ranks, 60) as meeting:
            if number == 0:
                return
            with pytest.raises(MeetingError, match="is lost"):
                while True:
                    meeting.agree(True)

    together(ranks, rank)


@given(st.integers(1, 1 << 40), st.integers(2, 8))
def test_pieces_fit_into_slots_and_small_tensors_use_many_blocks(count: int, ranks: int) -> None:
    piece = piece_of(count)
    assert 0 < piece <= SLOT // UNIT
    assert -(-count // piece) >= min(BLOCKS, count // 512) // 2
    share = -(-piece_of(count, ranks * SLOT // UNIT) // ranks)
    assert 0 < share <= SLOT // UNIT, "a rank's share of a piece fits into a slot"
