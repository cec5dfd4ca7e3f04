"""What a person sees while something is made: steps with the time to expect, signs of life, how long each took.

All of it goes to stderr, since stdout carries answers such as a path. On a terminal the sign of life is one line that
is updated; elsewhere it is a line of its own after 15 s, after 30 s and at every full minute.
"""

from __future__ import annotations

import os
import shutil
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

NOTICED = 2.0
"""Seconds after which somebody wonders what goes on, or how long it took."""
_FIRST_SIGNS = (15, 30)
_lock = threading.RLock()  # one line at a time
_running: list[_Heart] = []


def say(text: str) -> None:
    """One line, with the time of day."""
    with _lock:
        _screen.write(f"{time.strftime('%H:%M:%S')}  {text}\n")


def show(text: str) -> None:
    """Lines as they are, such as a table, in the middle of a step."""
    with _lock:
        _screen.write(f"{text.rstrip()}\n")


def note(text: str) -> None:
    """What the step that runs is doing: told with its next sign of life. Without a step it is told to nobody."""
    with _lock:
        if _running and text:
            _running[-1].doing = text


@contextmanager
def step(text: str) -> Iterator[None]:
    """Announce a step, with the time that it is expected to take in brackets, and say in the end how long it took."""
    say(text)
    began = time.monotonic()
    with alive():
        yield
    if (took := time.monotonic() - began) >= NOTICED:
        say(f"  {text.partition(' (')[0]}: {duration(took)}")


@contextmanager
def alive(doing: str = "") -> Iterator[None]:
    """Signs of life for as long as the block runs, with nothing said before and after."""
    heart = _Heart(doing)
    with _lock:
        _running.append(heart)
    heart.start()
    try:
        yield
    finally:
        heart.stop()
        with _lock:
            _running.remove(heart)
            _screen.write()


def duration(seconds: float) -> str:
    """For people: 3.2 s, 48 s, 12 min 30 s, 5 min."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    if seconds < 99.5:
        return f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if rest else f"{minutes} min"


def next_sign(elapsed: float, terminal: bool) -> float:
    """When the next sign of life is due, in seconds since the start, given those that have passed."""
    if terminal:
        return max(NOTICED, elapsed + 0.5)
    return next((first for first in _FIRST_SIGNS if first > elapsed), elapsed // 60 * 60 + 60)


class _Heart(threading.Thread):
    def __init__(self, doing: str) -> None:
        super().__init__(daemon=True)
        self.doing = doing
        self._began = time.monotonic()
        self._ended = threading.Event()

    def run(self) -> None:
        terminal = _terminal()
        at = next_sign(0, terminal)
        while not self._ended.wait(max(at - self._elapsed(), 0.01)):
            with _lock:
                if _running[-1] is self and not self._ended.is_set():
                    self._sign(terminal)
            at = next_sign(self._elapsed(), terminal)

    def _sign(self, terminal: bool) -> None:
        line = f"    {duration(self._elapsed())}" + (f": {self.doing}" if self.doing else "")
        if terminal:
            _screen.write(passing=f"          {line}"[: shutil.get_terminal_size().columns - 1])
        else:
            say(line[:120])

    def stop(self) -> None:
        self._ended.set()
        self.join()

    def _elapsed(self) -> float:
        return time.monotonic() - self._began


def _terminal() -> bool:
    return sys.stderr.isatty() and os.environ.get("TERM", "dumb") != "dumb"


class _Screen:
    """stderr, whose last line may be a passing one, which the next call writes over."""

    def __init__(self) -> None:
        self._passing = False

    def write(self, lines: str = "", passing: str = "") -> None:
        if self._passing or lines or passing:
            sys.stderr.write(("\r\x1b[K" if self._passing else "") + lines + passing)
            sys.stderr.flush()
        self._passing = bool(passing)


_screen = _Screen()
