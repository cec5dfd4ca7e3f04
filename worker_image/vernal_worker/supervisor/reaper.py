"""Collects orphans, as process 1 must: whoever dies without a parent becomes its child."""

import os
import time
from pathlib import Path

from vernal_worker import threads
from vernal_worker.supervisor import log

PATIENCE_SECONDS = 5.0
"""A dead child is left to whoever started it (a subprocess call that will want its exit status) for this
long."""


class Reaper:
    """Reaps on a thread of its own, from `start` on, for as long as the process lives."""

    def __init__(self) -> None:
        self._left_alone: set[int] = set()

    def leave_alone(self, pid: int) -> None:
        """Never reap `pid`: its owner wants its exit status, however late."""
        self._left_alone.add(pid)

    def start(self) -> None:
        threads.keep_running("reaper", self._run, log.thread_failed)

    def _run(self) -> None:
        seen: dict[int, float] = {}
        while True:
            time.sleep(1.0)
            now = time.monotonic()
            seen = {pid: seen.get(pid, now) for pid in dead_children() if pid not in self._left_alone}
            for pid in unwanted(seen, now):
                try:
                    os.waitpid(pid, os.WNOHANG)
                except ChildProcessError:
                    pass  # its owner was quicker


def unwanted(seen: dict[int, float], now: float) -> list[int]:
    """Which of the dead children, given when each was first seen dead, nobody else has collected."""
    return [pid for pid, since in seen.items() if now - since >= PATIENCE_SECONDS]


def dead_children() -> list[int]:
    """Children of this process that are dead and not reaped."""
    dead: list[int] = []
    for task in Path("/proc/self/task").iterdir():
        try:
            children = (task / "children").read_text().split()
        except OSError:
            continue  # the thread ended
        for child in children:
            try:
                if Path(f"/proc/{child}/stat").read_text().rpartition(")")[2].split()[0] == "Z":
                    dead.append(int(child))
            except OSError:
                pass  # reaped meanwhile
    return dead
