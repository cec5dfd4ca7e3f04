"""Who takes turns on the way to a GPU. That bytes arrive there is in `gpu/test_filling.py`."""

from hypothesis import given
from hypothesis import strategies as st
from vernal_worker.checkpoint.cuda import bus
from vernal_worker.checkpoint.cuda.bus import Bus
from vernal_worker.checkpoint.cuda.slots import Slot


@given(st.lists(st.integers(0, 12), min_size=1, max_size=4))
def test_all_of_all_readers_a_few_at_a_time_in_their_order(copies: list[int]) -> None:
    found = Bus([], len(copies))
    slot = Slot(memoryview(b""), 0)
    for reader, count in enumerate(copies):
        for number in range(count):
            found.copy(slot, [(reader, number)])
        found.no_more()
    batches = list(iter(found._next, []))
    assert all(len(batch) <= bus._AT_ONCE for batch in batches)
    assert [len(batch) for batch in batches[:-1]] == [bus._AT_ONCE] * (len(batches) - 1)
    every = [filled.parts[0] for batch in batches for filled in batch]
    assert every == [(reader, number) for reader, count in enumerate(copies) for number in range(count)]
    assert found._next() == [], "and it goes on saying so"
