"""What a person sees: few lines, a sign of life on anything that takes long, and one updated line on a terminal."""

import os
import pty
import re
import subprocess
import sys
from pathlib import Path

import pytest
from common import progress
from patience import GUARD_SECONDS

E2E = Path(progress.__file__).parents[1]


def test_off_a_terminal_the_signs_become_rare() -> None:
    due, at = [], 0.0
    while at < 720:
        due.append(at := progress.next_sign(at, terminal=False))
    assert due[:4] == [15, 30, 60, 120]
    assert len(due) == 14, "a compile of 12 minutes gives 14 lines"


def test_on_a_terminal_the_line_is_always_fresh() -> None:
    assert progress.next_sign(0, terminal=True) == progress.NOTICED
    assert progress.next_sign(100, terminal=True) == 100.5


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.04, "0.0 s"), (3.21, "3.2 s"), (48.4, "48 s"), (99.7, "1 min 40 s"), (750, "12 min 30 s"), (300, "5 min")],
)
def test_durations_are_for_people(seconds: float, text: str) -> None:
    assert progress.duration(seconds) == text


def test_a_step_says_its_line_alone_when_it_is_over_at_once(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress, "NOTICED", GUARD_SECONDS)  # so that on a slow machine, too, this is at once
    monkeypatch.setattr(progress, "next_sign", lambda elapsed, terminal: GUARD_SECONDS)
    with progress.step("building it (5 min the first time)"):
        progress.note("nobody sees this")
    said = capsys.readouterr()
    assert said.out == ""
    assert re.fullmatch(r"\d\d:\d\d:\d\d  building it \(5 min the first time\)\n", said.err)


def test_the_innermost_step_gives_the_signs(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next line comes from the inner step, whatever the outer one was doing."""
    monkeypatch.setattr(progress, "next_sign", lambda elapsed, terminal: elapsed + 0.01)
    seen = ""
    with progress.step("outer"), progress.alive("inner"):
        progress.note("STEP 3/9: RUN apt-get")
        while "STEP 3/9" not in seen:
            seen += capsys.readouterr().err
    assert re.search(r"^\d\d:\d\d:\d\d      (\d+ min )?[\d.]+ s: STEP 3/9: RUN apt-get$", seen, re.MULTILINE)


PROGRAM = """
from common import progress
progress.next_sign = lambda elapsed, terminal: elapsed + 0.01 if terminal else 1e6
with progress.alive("waiting for " + "x" * 500):
    for line in ("a table", "of two lines"):
        while not progress._screen._passing:
            pass
        progress.show(line)
    while not progress._screen._passing:
        pass
progress.say("done")
"""


def test_on_a_terminal_signs_are_one_line_that_is_written_over() -> None:
    ours, theirs = pty.openpty()
    environment = {**os.environ, "PYTHONPATH": str(E2E), "TERM": "xterm", "COLUMNS": "80"}
    with subprocess.Popen([sys.executable, "-c", PROGRAM], stderr=theirs, env=environment):
        os.close(theirs)
        seen = b""
        while True:
            try:
                seen += os.read(ours, 65536)
            except OSError:  # the other side is closed
                break
    os.close(ours)
    lines = [line.rpartition("\r\x1b[K")[2] for line in seen.decode().split("\r\n")]
    assert lines[:2] == ["a table", "of two lines"] and re.fullmatch(r"\d\d:\d\d:\d\d  done", lines[2])
    passing = re.findall(r" +(?:\d+ min )?[\d.]+ s: waiting for x+", seen.decode())
    assert passing and all(len(line) < 80 for line in passing)
