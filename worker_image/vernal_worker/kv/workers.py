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
        self.size = size
        self._tasks: queue.SimpleQueue[Task | None] = queue.SimpleQueue()
        self._lock = threading.Condition()
        self._threads: list[threading.Thread] = []
        self._unfinished = 0
        self._refused = False

    def submit(self, task: Task) -> bool:
        """Run `task` soon. It should not raise: that is logged and otherwise ignored.

        Returns: whether it will run. False, where no thread could be started, leaves nothing behind: the caller does
            without the task, as it would if storage had failed.
        """
        with self._lock:
            if len(self._threads) < min(self.size, self._unfinished + 1) and not self._add_thread():
                return False
            self._unfinished += 1
        self._tasks.put(task)
        return True

    def _add_thread(self) -> bool:
        """Returns whether there is a thread now, this one or an earlier one."""
        thread = threading.Thread(target=self._run, name=f"{self._name}-{len(self._threads)}", daemon=True)
        try:
            thread.start()
        except (RuntimeError, MemoryError) as error:  # a limit on processes, or no memory for a stack
            if not self._refused:
                _logger.warning(
                    "no thread for %s (%s); its work is left out or slower: raise the pod's limits of processes (pids) "
                    "and memory",
                    self._name,
                    error,
                )
            self._refused = True
        else:
            self._threads.append(thread)
            self._refused = False
        return bool(self._threads)

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
