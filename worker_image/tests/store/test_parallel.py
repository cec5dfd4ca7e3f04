"""Work on threads that hung storage must not hold back."""

import threading

import pytest
from patience import GUARD_SECONDS
from vernal_worker.parallel import for_each


def test_every_item_once_on_several_threads() -> None:
    together, done = threading.Barrier(4, timeout=GUARD_SECONDS), list[int]()

    def work(item: int) -> None:
        together.wait()
        done.append(item)

    for_each(range(40), work, 4, lambda: None)
    assert sorted(done) == list(range(40))


def test_the_first_error_ends_it() -> None:
    done = list[int]()

    def work(item: int) -> None:
        if item == 3:
            raise OSError("broken")
        done.append(item)

    with pytest.raises(OSError, match="broken"):
        for_each(range(1_000_000), work, 1, lambda: None)
    assert done == [0, 1, 2]


def test_work_that_hangs_is_left_behind() -> None:
    hung, free, done = threading.Event(), threading.Event(), list[int]()

    def work(item: int) -> None:
        hung.set()
        free.wait(GUARD_SECONDS)
        done.append(item)

    def tick() -> None:
        if hung.is_set():
            raise TimeoutError("no longer")

    with pytest.raises(TimeoutError):
        for_each(range(100), work, 2, tick)
    assert done == [], "it returned while they hang"
    free.set()
    for thread in threading.enumerate():
        if thread.name.startswith("parallel-"):
            thread.join(GUARD_SECONDS)
    assert len(done) <= 2, "they go on to the next item"
