#!/usr/bin/env python3
"""Runs make's steps in lanes, side by side: `python3 e2e/lanes.py "STEP STEP..." "STEP..."`.

The steps of a lane run one after the other. Every line of output carries its step's name. When a step fails, nothing
new is started, the end of its output is printed once more, last, and the exit status is 1. Ctrl-C ends what runs.
"""

import collections
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path

from common.room import ensure_room
from common.tools import ToolError, fail

KEPT_LINES = 80
ROOM = 8.0
"""GiB, of checkpoints in temporary directories, the development environment beside."""


@dataclass(frozen=True)
class Result:
    """What became of a step. `status`: its exit status; None if it was not run."""

    step: str
    status: int | None
    minutes: float = 0.0

    def __str__(self) -> str:
        if self.status is None:
            return f"not run  {self.step}"
        return f"{'FAILED' if self.status else 'passed'}   {self.step}  {self.minutes:.1f} min"


def make(step: str) -> list[str]:
    # A shell's background jobs ignore SIGINT, and so would all that they start: a step must hear when it is to end.
    return ["env", "--default-signal=INT", "make", "--no-print-directory", step]


class Lanes:
    """What runs, what is done and what failed. Safe to use from several threads.

    Args:
        command: what runs a step.
        keep_going: start the others also when a step has failed.
    """

    def __init__(self, command: Callable[[str], Sequence[str]] = make, *, keep_going: bool = False) -> None:
        self.results: list[Result] = []
        """In the order in which they came."""
        self.interrupted = False
        self._command, self._keep_going = command, keep_going
        self._lock = threading.Lock()
        self._failed = False
        self._running: dict[str, subprocess.Popen[str]] = {}
        self._last_words: list[str] = []

    def run(self, lanes: Sequence[Sequence[str]]) -> int:
        """Run all lanes to their end.

        Returns:
            The exit status.
        """
        # Not Thread.join: of a thread whose join was interrupted it says ever after that it has ended (Python 3.11).
        with ThreadPoolExecutor(max(1, len(lanes))) as pool:
            running: list[Future[None]] = []
            try:
                running += [pool.submit(self._lane, lane) for lane in lanes]
                wait(running)
            except KeyboardInterrupt:
                self._stop()
                wait(running)
        for lane in running:
            lane.result()
        print("\n".join([*self._last_words, *map(str, self.results)]), flush=True)
        return int(self._failed)

    def _lane(self, steps: Sequence[str]) -> None:
        for step in steps:
            start = time.monotonic()
            with self._lock:
                if self.interrupted or (self._failed and not self._keep_going):
                    self.results.append(Result(step, None))
                    continue
                # Its own session: a terminal's Ctrl-C reaches this process, which passes it on once.
                process = subprocess.Popen(
                    self._command(step),
                    stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace",
                    env=os.environ | {"PYTHONUNBUFFERED": "1"}, start_new_session=True,
                )  # fmt: skip
                self._running[step] = process
            print(f"=== make {step} ({time.strftime('%T')})", flush=True)
            kept = collections.deque[str](maxlen=KEPT_LINES)
            assert process.stdout is not None
            for line in process.stdout:
                kept.append(line.rstrip())
                print(f"{step:>18} | {kept[-1]}", flush=True)
            status, minutes = process.wait(), (time.monotonic() - start) / 60
            with self._lock:
                del self._running[step]
                self.results.append(Result(step, status, minutes))
                if status:
                    self._failed = True
                    self._last_words += [f"=== the end of make {step}", *kept]

    def _stop(self) -> None:
        with self._lock:
            self._failed = self.interrupted = True
            for process in self._running.values():
                os.killpg(process.pid, signal.SIGINT)


def main() -> int:
    try:
        ensure_room(Path(tempfile.gettempdir()), ROOM, "what tests freeze")
    except ToolError as error:
        fail(error)
    return Lanes().run([argument.split() for argument in sys.argv[1:]])


if __name__ == "__main__":
    if sys.argv[1:] in (["-h"], ["--help"]):
        print(__doc__)
        sys.exit(0)
    if not sys.argv[1:]:
        sys.exit(__doc__)
    sys.exit(main())
