"""The queue: each key once, by one thread at a time, and not before its time."""

import threading
import time
from collections import Counter

from patience import GUARD_SECONDS, until
from vernal_operator.workqueue import WorkQueue


def test_a_key_that_waits_is_merged() -> None:
    queue: WorkQueue[str] = WorkQueue()
    for key in "aba":
        queue.add(key)
    assert [queue.get(), queue.get()] == ["a", "b"]


def test_a_key_added_while_it_is_handled_comes_again_afterwards() -> None:
    queue: WorkQueue[str] = WorkQueue()
    queue.add("a")
    assert queue.get() == "a"
    queue.add("a")
    queue.add("b")
    assert queue.get() == "b", "not a: it is being handled"
    queue.done("a")
    assert queue.get() == "a"


def test_the_earliest_of_several_times_counts() -> None:
    queue: WorkQueue[str] = WorkQueue()
    started = time.monotonic()
    queue.add_after("a", 5.0)
    queue.add_after("a", 0.1)
    queue.add_after("a", 3.0)
    queue.add_after("b", 0.5)
    assert queue.get() == "a" and time.monotonic() - started >= 0.1
    assert queue.get() == "b", "a would have come now, or later"


def test_a_held_key_is_not_due_before_its_time_and_due_then() -> None:
    queue: WorkQueue[str] = WorkQueue()
    queue.add("a")
    assert queue.get() == "a"
    started = time.monotonic()
    queue.add("a")
    queue.hold("a", 0.3)
    queue.done("a")
    queue.add("a")
    queue.add_after("a", 0.01)
    assert queue.get() == "a"
    assert time.monotonic() - started >= 0.3
    queue.done("a")
    queue.add("a")
    assert queue.get() == "a", "afterwards it is as any other"


def test_no_key_is_lost_or_handled_twice_at_once() -> None:
    queue: WorkQueue[int] = WorkQueue()
    active: Counter[int] = Counter()
    handled: Counter[int] = Counter()
    lock = threading.Lock()
    wrong: list[int] = []

    def work() -> None:
        while (key := queue.get()) is not None:
            with lock:
                active[key] += 1
                if active[key] > 1:
                    wrong.append(key)
            time.sleep(0.0005)
            with lock:
                active[key] -= 1
                handled[key] += 1
            queue.done(key)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for n in range(2000):
        (queue.add if n % 3 else lambda key: queue.add_after(key, 0.002))(n % 20)
    # A key goes from one of these to the next, and never back.
    until("all to be handled", lambda: _is_idle(queue))
    before = sum(handled.values())
    for n in range(20):
        queue.add(n)
    until("all to be handled once more", lambda: _is_idle(queue))
    queue.close()
    for thread in threads:
        thread.join(GUARD_SECONDS)
        assert not thread.is_alive()
    assert not wrong
    assert set(handled) == set(range(20)) and sum(handled.values()) == before + 20


def test_a_key_that_is_due_in_a_thousand_years_ends_no_thread() -> None:
    """Python refuses to wait for so long: the thread that did would end, and with the last of them the operator."""
    queue: WorkQueue[str] = WorkQueue()
    queue.add_after("for ever", 1e12)
    taken: list[str | None] = []
    thread = threading.Thread(target=lambda: taken.append(queue.get()))
    thread.start()
    queue.add_after("now", 0.1)
    thread.join(GUARD_SECONDS)
    assert taken == ["now"]


def _is_idle(queue: WorkQueue[int]) -> bool:
    with queue._condition:  # a key is in none of these while it goes from one to the next
        return not (queue._wakes or queue._dirty or queue._active)
