"""The worker's log: one line of `key=value` per event on stdout, and the engine's lines passed through."""

import os
import sys
import threading
import time

from vernal_contract.logline import format_fields, stamp

_lock = threading.Lock()


def event(name: str, /, **fields: object) -> None:
    """Log that something happened."""
    _write(f"{_now()} vernal event={name} {format_fields(fields)}".rstrip())


def failure(name: str, /, **fields: object) -> None:
    """Log that something went wrong. Say what to do about it as `next_step`."""
    _write(f"{_now()} vernal level=error event={name} {format_fields(fields)}".rstrip())


def thread_failed(name: str, error: Exception) -> None:
    """Say that the work of thread `name` failed, and begins again (`vernal_worker.threads`)."""
    failure(
        "thread_failed",
        thread=name,
        traceback=trace(error),
        next_step="a bug in Vernal, or no memory: see the traceback",
    )


def trace(error: BaseException) -> str:
    """The error with its traceback."""
    import traceback  # here: a start waits for each import; once CRIU runs `admin` has it, so no failure waits for it

    return "".join(traceback.format_exception(error))


def engine_line(line: str) -> None:
    """Pass one line of the engine's output on."""
    _write(f"{_now()} engine {line}")


def _now() -> str:
    return stamp(time.time())


def _write(line: str) -> None:
    """One whole line, however many threads write: logs of process 1 and of the engine share this stream."""
    data = (line + "\n").encode(errors="replace")
    with _lock:
        try:
            while data:
                data = data[os.write(sys.stdout.fileno(), data) :]
        except OSError:
            pass  # the reader of our log is gone; that must not stop the worker
