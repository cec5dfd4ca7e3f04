"""Running tools such as apt and buildah: what they say goes to a log file, and to the screen only when they fail."""

from __future__ import annotations

import os
import shlex
import subprocess
import time
from collections import deque
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NoReturn

from common.cache import cache_dir
from common.progress import note, say

LOG_VARIABLE = "VERNAL_LOG"
_KEPT_LOGS = 20
_TAIL_LINES = 25


class ToolError(Exception):
    """Something the user can act on; its text says what failed and what to do next."""


def fail(error: ToolError) -> NoReturn:
    """Ends the program with the error's text."""
    raise SystemExit(f"error: {error}")


def log_file() -> Path:
    """The file that VERNAL_LOG names; else a new one in the cache, whose name is told once, and handed down to the
    programs that this one runs."""
    if named := os.environ.get(LOG_VARIABLE):
        return Path(named).absolute()
    logs = cache_dir() / "logs"
    logs.mkdir(parents=True, exist_ok=True)
    for old in sorted(logs.glob("*.log"))[: -_KEPT_LOGS + 1]:  # their names begin with the time
        old.unlink(missing_ok=True)
    path = logs / f"{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}.log"
    os.environ[LOG_VARIABLE] = str(path)
    say(f"what tools say goes to {path}")
    return path


def log(text: str) -> None:
    """One line to the log file."""
    with log_file().open("a") as file:
        file.write(f"{text.rstrip()}\n")


def run(
    command: Sequence[str | Path], failed: str, env: Mapping[str, str] | None = None, given: str | None = None
) -> None:
    """Run a tool to its end. Each line that it prints goes to the log, and is the step's next sign of life.

    Args:
        env: variables to set beside those of this process.
        given: what it reads on stdin.

    Raises:
        ToolError: it exited with a status other than 0, or does not exist; the text has the end of what it said, and
            `failed`, which says what to do about it.
    """
    words = [str(word) for word in command]
    tail: deque[str] = deque(maxlen=_TAIL_LINES)
    path = log_file()
    with path.open("a") as file:
        file.write(f"\n{time.strftime('%H:%M:%S')} $ {shlex.join(words)}\n")
        file.flush()
        try:
            process = subprocess.Popen(
                words, env={**os.environ, **(env or {})}, text=True, errors="replace",
                stdin=subprocess.DEVNULL if given is None else subprocess.PIPE,
                stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            )  # fmt: skip
        except FileNotFoundError as error:
            raise ToolError(f"{words[0]} is not there. {failed}") from error
        with process:
            if process.stdin:
                process.stdin.write(given or "")
                process.stdin.close()
            assert process.stdout
            for line in process.stdout:
                file.write(line)
                file.flush()
                tail.append(line.rstrip())
                note(line.strip())
    if process.returncode:
        raise ToolError(
            "\n".join(
                [
                    f"`{shlex.join(words)}` exited with status {process.returncode}. {failed}",
                    f"The end of {path}:",
                    *(f"    {line[:400]}" for line in tail),
                ]
            )
        )
