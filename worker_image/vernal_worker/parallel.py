"""Running blocking work on threads that can be left behind when the storage hangs."""

import threading
from collections.abc import Callable, Iterable
from typing import TypeVar

T = TypeVar("T")
TICK = 0.05


def aside(work: Callable[[], T], tick: Callable[[], None]) -> T:
    """Call `work` on a thread of its own; returns what it returns, raises what it raises.

    `tick` is called in the caller's thread every `TICK` seconds or so; if it raises, that is raised at once, and the
    thread (a daemon) is left behind. So the caller goes on when the storage does not.
    """
    done: list[T] = []
    errors: list[BaseException] = []

    def run() -> None:
        try:
            done.append(work())
        except BaseException as e:
            errors.append(e)

    thread = threading.Thread(target=run, name="aside", daemon=True)
    thread.start()
    while True:
        thread.join(TICK)
        if not thread.is_alive():
            break
        tick()
    if errors:
        raise errors[0]
    return done[0]


def for_each(items: Iterable[T], work: Callable[[T], None], threads: int, tick: Callable[[], None]) -> None:
    """Call `work` on every item with `threads` threads; the first exception ends it and is raised.

    `tick` is called in the caller's thread before the first item and every `TICK` seconds or so; if it raises, that is
    raised at once, and the threads (daemons) end after the item that they are at.
    """
    tick()
    lock, stop = threading.Lock(), threading.Event()
    todo = iter(items)
    errors: list[BaseException] = []

    def run() -> None:
        while not stop.is_set():
            with lock:
                item = next(todo, todo)
            if item is todo:
                return
            try:
                work(item)  # type: ignore[arg-type]  # todo itself marks the end
            except BaseException as e:
                errors.append(e)
                stop.set()

    running = [threading.Thread(target=run, name=f"parallel-{i}", daemon=True) for i in range(threads)]
    for thread in running:
        thread.start()
    try:
        for thread in running:
            while thread.is_alive():
                thread.join(TICK)
                tick()
    finally:
        stop.set()
    if errors:
        raise errors[0]
