"""The worker's log: one line of `key=value` per event on stdout, and the engine's lines passed through."""

import datetime
import os
import re
import sys
import threading
import traceback

_PLAIN = re.compile(r"[^\s\"=]+")
_lock = threading.Lock()


def format_fields(fields: dict[str, object]) -> str:
    """`key=value` pairs; a value with spaces, quotes or line breaks is quoted, one that is None is left
    out."""
    parts: list[str] = []
    for key, value in fields.items():
        if value is None:
            continue
        text = f"{value:.3f}" if isinstance(value, float) else str(value)
        if not _PLAIN.fullmatch(text):
            text = '"' + text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n") + '"'
        parts.append(f"{key}={text}")
    return " ".join(parts)


def event(name: str, /, **fields: object) -> None:
    """Log that something happened."""
    _write(f"{_now()} vernal event={name} {format_fields(fields)}".rstrip())


def failure(name: str, /, **fields: object) -> None:
    """Log that something went wrong. Say what to do about it as `next_step`."""
    _write(f"{_now()} vernal level=error event={name} {format_fields(fields)}".rstrip())


def thread_failed(name: str, error: Exception) -> None:
    """Say that the work of thread `name` failed, and begins again (`vernal_worker.threads`)."""
    text = "".join(traceback.format_exception(error))
    failure("thread_failed", thread=name, traceback=text, next_step="a bug in Vernal, or no memory: see the traceback")


def engine_line(line: str) -> None:
    """Pass one line of the engine's output on."""
    _write(f"{_now()} engine {line}")


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _write(line: str) -> None:
    """One whole line, however many threads write: logs of process 1 and of the engine share this stream."""
    data = (line + "\n").encode(errors="replace")
    with _lock:
        try:
            while data:
                data = data[os.write(sys.stdout.fileno(), data) :]
        except OSError:
            pass  # the reader of our log is gone; that must not stop the worker
