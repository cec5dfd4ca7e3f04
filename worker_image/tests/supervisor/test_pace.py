"""A thaw's time follows from its size, and ends early where the rate that was seen cannot make it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from vernal_worker.supervisor import pace

GB = 10**9


@pytest.mark.parametrize(
    ("size", "configured", "seconds"), [(0, None, 120), (16 * GB, None, 280), (65 * GB, None, 770), (65 * GB, 5.0, 5)]
)
def test_allowance(size: int, configured: float | None, seconds: float) -> None:
    assert pace.allowance(size, configured) == seconds


@pytest.mark.parametrize(
    ("size", "configured", "left", "seconds"),
    [
        (0, 600, 1000, 600),
        (140 * GB, 600, 1500, 1520),
        (140 * GB, 600, 500, 1100),  # longer, nobody waits for the worker
        (140 * GB, 600, -5, 600),
        (140 * GB, 9000, 0, 9000),
    ],
)
def test_a_freeze_that_is_big_may_take_longer_than_the_pool_says(
    size: int, configured: float, left: float, seconds: float
) -> None:
    assert pace.for_freeze(size, configured, left) == seconds


def test_storage_that_keeps_up_is_waited_for_and_one_that_cannot_make_it_is_not() -> None:
    assert pace.hopeless(GB, 16 * GB, elapsed=30, left=500) is None
    problem = pace.hopeless(GB, 16 * GB, elapsed=30, left=400) or ""
    assert "33.3 MB/s" in problem and "450 s" in problem and "400 s are left" in problem
    assert "for ever" in (pace.hopeless(0, GB, elapsed=30, left=100) or "")


@given(st.integers(0, 100 * GB), st.integers(1, 100 * GB), st.floats(0, 1e4), st.floats(0, 1e4))
def test_it_is_never_given_up_early_or_when_done(done: int, size: int, elapsed: float, left: float) -> None:
    found = pace.hopeless(done, size, elapsed, left)
    if elapsed < pace.JUDGED_AFTER or done >= size:
        assert found is None
    elif found is not None:
        assert done + done / elapsed * left < size * (1 + 1e-9)
