"""What a thread takes up of a load, and what a load says at its end."""

import pytest
from vernal_worker.kv.blockfile import Failure
from vernal_worker.kv.loads import Block, Load, Loaded, Speed


def load(count: int) -> Load:
    return Load("r", [Block(n.to_bytes(32), 100 + n) for n in range(count)], 5.0, 0.0)


@pytest.mark.parametrize("count", [1, 8, 100, 768])
def test_all_blocks_are_taken_up_once_and_in_their_order(count: int) -> None:
    one = load(count)
    runs = []
    while one.wanted():
        runs.append(one.take(one.run(7, 16)))
    assert [index for run in runs for index in run] == list(range(count))
    lengths = [len(run) for run in runs]
    assert lengths == sorted(lengths, reverse=True) and lengths[-1] == 1, "all end together"
    assert lengths[0] == min(7, max(1, count // 32))


def test_nothing_behind_a_failed_block_is_taken_up() -> None:
    one = load(8)
    one.take(3)
    one.fail(1, Failure.CORRUPT)
    assert not one.wanted()
    one.pending -= {0, 1}
    assert one.complete()
    one.end()
    skipped = {100 + n: Failure.SKIPPED for n in range(2, 8)}
    assert one.result(hung=False) == Loaded("r", 1, {101: Failure.CORRUPT} | skipped)


def test_what_is_pending_at_the_end_came_too_late() -> None:
    one = load(2)
    one.pending.discard(0)
    one.end()
    assert one.result(hung=True) == Loaded("r", 1, {101: Failure.SLOW}, hung=True)


def test_the_best_speed_counts_where_enough_was_loaded_to_tell() -> None:
    speed = Speed()
    speed.begin(0.0)
    speed.add(10)
    speed.end(0.5)
    assert speed.take() is None
    speed.add(90)
    speed.end(1.0)
    speed.add(100)
    speed.end(3.0)
    assert speed.take() == 100.0
    assert speed.take() is None
