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
import threading
import time

KEPT_LINES = 80


class Lanes:
    """What runs, what is done and what failed. Safe to use from several threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._failed = False
        self._running: dict[str, subprocess.Popen[str]] = {}
        self._summary: list[str] = []
        self._last_words: list[str] = []

    def run(self, lanes: list[list[str]]) -> int:
        """Run all lanes to their end.

        Returns:
            The exit status.
        """
        threads = [threading.Thread(target=self._lane, args=[lane]) for lane in lanes]
        for thread in threads:
            thread.start()
        try:
            for thread in threads:
                thread.join()
        except KeyboardInterrupt:
            self._stop()
            for thread in threads:
                thread.join()
        print("\n".join([*self._last_words, *self._summary]), flush=True)
        return int(self._failed)

    def _lane(self, steps: list[str]) -> None:
        for step in steps:
            start = time.monotonic()
            with self._lock:
                if self._failed:
                    self._summary.append(f"not run  {step}")
                    continue
                # Its own session: a terminal's Ctrl-C reaches this process, which passes it on once.
                process = subprocess.Popen(
                    ["make", "--no-print-directory", step],
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
                self._summary.append(f"{'FAILED' if status else 'passed'}   {step}  {minutes:.1f} min")
                if status:
                    self._failed = True
                    self._last_words += [f"=== the end of make {step}", *kept]

    def _stop(self) -> None:
        with self._lock:
            self._failed = True
            for process in self._running.values():
                os.killpg(process.pid, signal.SIGINT)


if __name__ == "__main__":
    if sys.argv[1:] in (["-h"], ["--help"]):
        print(__doc__)
        sys.exit(0)
    if not sys.argv[1:]:
        sys.exit(__doc__)
    sys.exit(Lanes().run([argument.split() for argument in sys.argv[1:]]))
