"""Slots: the memory that bytes pass through, before the driver has page-locked it, and who has which."""

import ctypes
import mmap
import os
import re
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from vernal_worker.checkpoint.cuda import slots
from vernal_worker.checkpoint.cuda.preparing import Preparation
from vernal_worker.checkpoint.cuda.slots import EACH, SIZE, Slots, default_threads, most
from vernal_worker.checkpoint.doctor import HUGE_PAGES


@pytest.fixture
def locked(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """Address and size of all that the driver was asked to page-lock and that it still has to."""
    found: list[tuple[int, int]] = []

    def call(function: str, address: int, *size: Any) -> None:
        if function == "cuMemHostRegister":
            found.append((address, size[0]))
        else:
            assert function == "cuMemHostUnregister"
            found[:] = [each for each in found if each[0] != address]

    monkeypatch.setattr(slots, "call", call)
    monkeypatch.setattr(slots, "bindings", lambda: type("driver", (), {"CU_MEMHOSTREGISTER_PORTABLE": 1}))
    return found


def huge(address: int) -> int:
    """Bytes in huge pages of the mapping that has an address."""
    maps = re.split(r"^([0-9a-f]+)-([0-9a-f]+) ", Path("/proc/self/smaps").read_text(), flags=re.MULTILINE)
    for begin, end, text in zip(maps[1::3], maps[2::3], maps[3::3], strict=True):
        if int(begin, 16) <= address < int(end, 16):
            (size,) = re.findall(r"^AnonHugePages: +(\d+) kB", text, re.MULTILINE)
            return int(size) << 10
    raise AssertionError("it is not mapped")


def test_they_have_huge_pages_before_anybody_asks() -> None:
    if not gives_huge_pages():
        pytest.skip("this machine gives no huge pages now")
    found = Slots(4)
    assert found._free[0].address % SIZE == 0
    assert huge(found._free[0].address) >= 4 * SIZE


def gives_huge_pages() -> bool:
    if "[never]" in HUGE_PAGES.read_text():
        return False
    found = mmap.mmap(-1, 6 * SIZE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    found.madvise(mmap.MADV_HUGEPAGE)
    found.write(bytes(6 * SIZE))
    return huge(ctypes.addressof(ctypes.c_char.from_buffer(found))) >= 4 * SIZE


def test_each_has_its_own_bytes(locked: list[tuple[int, int]]) -> None:
    found = Slots(3)
    with found.lent(3) as lent:
        assert {len(slot.view) for slot in lent} == {SIZE}
        for number, slot in enumerate(lent):
            slot.view[:] = bytes([number + 1]) * SIZE
        for number, slot in enumerate(lent):
            assert ctypes.string_at(slot.address, SIZE) == bytes([number + 1]) * SIZE


@given(st.lists(st.integers(1, 4), min_size=1, max_size=4), st.integers(0, 3))
def test_each_is_lent_once_and_page_locked_once(wanted: list[int], more: int) -> None:
    calls: list[tuple[int, int]] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(slots, "SIZE", 4096)
        patch.setattr(slots, "call", lambda function, address, size, flags: calls.append((address, size)))
        patch.setattr(slots, "bindings", lambda: type("driver", (), {"CU_MEMHOSTREGISTER_PORTABLE": 1}))
        found = Slots(sum(wanted) + more)
        for _ in range(2):
            with ExitStack() as stack:
                every = [slot.address for count in wanted for slot in stack.enter_context(found.lent(count))]
                assert len(set(every)) == len(every) == sum(wanted)
                with pytest.raises(ValueError, match=rf"{more + 1} slots .* {more} of {sum(wanted) + more} are there"):
                    stack.enter_context(found.lent(more + 1))
                bytes_locked = [at for begin, size in calls for at in range(begin, begin + size, 4096)]
                assert set(every) <= set(bytes_locked) and len(set(bytes_locked)) == len(bytes_locked)
        assert len(calls) == len(wanted), "the second time nothing"


def test_what_is_made_for_the_while_is_page_locked_for_it(locked: list[tuple[int, int]]) -> None:
    with slots.page_locked(2) as lent:
        assert locked == [(lent[0].address, 2 * SIZE)]
    assert locked == []
    given_slots = Slots(3)
    first = given_slots._free[0].address
    for _ in range(2):
        with slots.page_locked(2, given_slots) as lent:
            pass
    assert locked == [(first, 2 * SIZE)], "the second time nothing"
    given_slots.close()
    assert locked == []


@pytest.mark.parametrize("cores", [2, 8, 16, 32, 48, 128])
@pytest.mark.parametrize("gpus", [1, 2, 4, 8])
def test_what_is_made_for_all_gpus_is_enough_for_any_engine(
    cores: int, gpus: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(cores)))
    preparation = Preparation(0)
    preparation._making_slots.join()
    preparation._slots = Slots.__new__(Slots)
    preparation._slots.count = most(gpus)
    for ranks in range(1, gpus + 1):
        threads = default_threads(ranks)
        assert preparation.slots(ranks * threads * EACH) is preparation._slots
        assert threads == 1 or ranks * (threads + 1) < cores, "a core is left"
    assert preparation.slots(most(gpus) + 1) is None
