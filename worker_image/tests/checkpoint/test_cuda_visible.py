"""What CUDA_VISIBLE_DEVICES selects, and how all GPUs are listed with the selected ones first."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from vernal_worker.checkpoint.cuda.visible import select

A, B, C = (f"GPU-{letter * 8}-0000-0000-0000-000000000000" for letter in "abc")


@pytest.mark.parametrize(
    ("value", "every", "count"),
    [
        (None, None, 3),
        ("0", "0,1,2", 1),
        ("1", "1,0,2", 1),
        ("2,0", "2,0,1", 2),
        ("1, 0 ,2", "1,0,2", 3),
        ("1,-1,0", "1,0,2", 1),  # CUDA stops at what is no device
        ("0,7", "0,1,2", 1),
        (B, f"{B},{A},{C}", 1),
        ("GPU-cc", f"{C},{A},{B}", 1),  # as much of it as tells it from the others
        (f"{C},{A}", f"{C},{A},{B}", 2),
        # None that is known: left to CUDA.
        ("", "", 0),
        ("-1", "-1", 0),
        ("NoDevFiles", "NoDevFiles", 0),
        ("0,0", "0,0", 0),
        ("GPU-dd", "GPU-dd", 0),
        ("MIG-1111", "MIG-1111", 1),
    ],
)
def test_select(value: str | None, every: str | None, count: int) -> None:
    found = select(value, (A, B, C))
    assert (found.given, found.every, found.selected) == (value, every, count)


@given(st.integers(1, 8).flatmap(lambda n: st.tuples(st.just(n), st.permutations(range(n)), st.integers(1, n))))
def test_every_gpu_is_listed_once_and_the_selected_ones_first(case: tuple[int, list[int], int]) -> None:
    count, order, chosen = case
    found = select(",".join(map(str, order[:chosen])), [f"GPU-{number}" for number in range(count)])
    assert found.every is not None
    listed = [int(number) for number in found.every.split(",")]
    assert sorted(listed) == list(range(count))
    assert listed[: found.selected] == order[:chosen]
