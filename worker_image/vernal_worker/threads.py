"""Threads that nobody waits for: none of them ends without a word."""

import threading
import time
from collections import Counter
from collections.abc import Callable

PAUSE_SECONDS = 1.0
"""Before work that failed is begun again."""

failures: Counter[str] = Counter()
"""How often the work of each thread failed, by the thread's name."""


def keep_running(
    name: str, work: Callable[[], None], failed: Callable[[str, Exception], None], *, pause: float = PAUSE_SECONDS
) -> threading.Thread:
    """Do `work` on a daemon thread until it returns. When it raises, `failed` is told the thread's name and why, and
    the work begins again after `pause` seconds: `work` must be such that this makes sense."""

    def run() -> None:
        while True:
            try:
                work()
                return
            except Exception as error:
                failures[name] += 1
                failed(name, error)
            time.sleep(pause)

    thread = threading.Thread(target=run, name=name, daemon=True)
    thread.start()
    return thread
