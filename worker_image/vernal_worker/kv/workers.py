"""Daemon threads for storage calls.

Not `concurrent.futures`: its threads are joined when the interpreter exits, and a call to storage that hangs would then
keep a process from exiting that has long given up on the answer.
"""

import logging
import queue
import threading
import time
from collections.abc import Callable

from vernal_worker.kv import LOGGER

_logger = logging.getLogger(LOGGER)
Task = Callable[[], None]


class Workers:
    """At most `size` threads, started when there is work. Tasks start in the order of submission."""

    def __init__(self, name: str, size: int) -> None:
        self._name = name
        self._size = size
        self._tasks: queue.SimpleQueue[Task | None] = queue.SimpleQueue()
        self._lock = threading.Condition()
        self._threads: list[threading.Thread] = []
        self._unfinished = 0

    def submit(self, task: Task) -> None:
        """Run `task` soon. It should not raise: that is logged and otherwise ignored."""
        with self._lock:
            self._unfinished += 1
            if len(self._threads) < min(self._size, self._unfinished):
                thread = threading.Thread(target=self._run, name=f"{self._name}-{len(self._threads)}", daemon=True)
                self._threads.append(thread)
                thread.start()
        self._tasks.put(task)

    def drain(self, timeout: float) -> bool:
        """Wait until nothing is left to do, `timeout` seconds at most; returns whether that is so."""
        end = time.monotonic() + timeout
        with self._lock:
            return self._lock.wait_for(lambda: self._unfinished == 0, max(0.0, end - time.monotonic()))

    def stop(self) -> None:
        """End the threads that are not stuck, after what was submitted. New work starts new threads."""
        with self._lock:
            for _ in self._threads:
                self._tasks.put(None)
            self._threads.clear()

    def _run(self) -> None:
        while (task := self._tasks.get()) is not None:
            try:
                task()
            except Exception:
                _logger.exception("a task of %s failed", self._name)
            finally:
                with self._lock:
                    self._unfinished -= 1
                    self._lock.notify_all()
