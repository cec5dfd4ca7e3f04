"""Slots: the memory that bytes pass through, before the driver has page-locked it."""

import ctypes
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from vernal_worker.checkpoint.cuda.preparing import Preparation, needed
from vernal_worker.checkpoint.cuda.slots import EACH, SIZE, Slots, default_threads


def resident() -> int:
    (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmRSS"))
    return int(line.split()[1]) << 10


def test_they_have_their_memory_before_anybody_asks() -> None:
    before = resident()
    found = Slots(4)
    assert found._address % SIZE == 0 and found._size == 4 * SIZE
    assert resident() - before >= 3 * SIZE


def test_each_has_its_own_bytes() -> None:
    found = Slots(3)
    with found.lent(3) as slots:
        assert {len(slot.view) for slot in slots} == {SIZE}
        for number, slot in enumerate(slots):
            slot.view[:] = bytes([number + 1]) * SIZE
        for number, slot in enumerate(slots):
            assert ctypes.string_at(slot.address, SIZE) == bytes([number + 1]) * SIZE


def test_one_is_lent_to_one_at_a_time() -> None:
    found = Slots(3)
    with found.lent(2) as first:
        with found.lent(1) as other:
            assert len({slot.address for slot in (*first, *other)}) == 3
        with pytest.raises(ValueError, match="2 slots were asked for, and 1 of 3 are there"), found.lent(2):
            pass
    with found.lent(3):
        pass


@given(st.integers(1, 8), st.integers(1, 8))
def test_what_was_made_for_all_gpus_is_lent_where_it_is_enough(gpus: int, ranks: int) -> None:
    preparation = Preparation(0)
    preparation._slots = Slots.__new__(Slots)
    preparation._slots.count = needed(gpus)
    lent = preparation.slots(ranks)
    assert (lent is not None) == (needed(ranks) <= needed(gpus))
    assert needed(ranks) == ranks * default_threads(ranks) * EACH
