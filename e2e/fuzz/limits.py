"""What one example may take. None of it depends on how busy the machine is."""

import os
import resource
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

MEMORY = 512 << 20
"""Bytes that an example may ask for beyond what the process has. A length that lies asks for more."""

PROCESSOR_SECONDS = 120.0
"""Of this process, that an example may use. Real ones use a hundredth of a second."""

_PATHS = dict.fromkeys(
    (
        "open", "os.chmod", "os.chown", "os.listdir", "os.mkdir", "os.remove", "os.rmdir", "os.scandir", "os.truncate",
        "os.utime",
    ), slice(1),
) | {"os.link": slice(2), "os.rename": slice(2), "os.symlink": slice(1, 2)}  # fmt: skip
"""Which arguments of an audit event (PEP 578) are paths that something is done with."""


@contextmanager
def bounded(memory: int = MEMORY, seconds: float = PROCESSOR_SECONDS) -> Iterator[None]:
    """End what asks for more memory with a MemoryError, and what computes for longer with an AssertionError."""
    soft, hard = resource.getrlimit(resource.RLIMIT_DATA)
    limit = _data() + memory
    resource.setrlimit(resource.RLIMIT_DATA, (limit if hard == resource.RLIM_INFINITY else min(limit, hard), hard))
    in_main = threading.current_thread() is threading.main_thread()
    before = signal.signal(signal.SIGVTALRM, _too_long) if in_main else None
    if in_main:
        signal.setitimer(signal.ITIMER_VIRTUAL, seconds)
    try:
        yield
    finally:
        if in_main:
            signal.setitimer(signal.ITIMER_VIRTUAL, 0)
            signal.signal(signal.SIGVTALRM, before)
        resource.setrlimit(resource.RLIMIT_DATA, (soft, hard))


def _too_long(*_: object) -> None:
    raise AssertionError(f"one example computes for more than {PROCESSOR_SECONDS:g} s")


def _data() -> int:
    """Bytes of this process that RLIMIT_DATA counts."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith("VmData"))


_recorders: list[list[str]] = []


def _audit(event: str, arguments: tuple[Any, ...]) -> None:
    if not _recorders or event not in _PATHS:
        return
    for path in arguments[_PATHS[event]]:
        if isinstance(path, str | bytes | os.PathLike):
            for recorder in _recorders:
                recorder.append(os.fsdecode(path))


@cache
def _listen() -> None:
    """For ever: there is no way to take a hook away."""
    sys.addaudithook(_audit)


@contextmanager
def touched() -> Iterator[list[str]]:
    """The paths that this process opens, lists, makes, changes and removes meanwhile, on any thread."""
    _listen()
    found: list[str] = []
    _recorders.append(found)
    try:
        yield found
    finally:
        _recorders.remove(found)


def outside(paths: list[str], *roots: Path) -> list[str]:
    """Those of `paths` that lead out of all `roots`, directories on the way there followed where they are links.
    Without relative ones: those are names below a directory's descriptor, as shutil.rmtree has them."""
    real = [root.resolve() for root in roots]
    places = {
        path: Path(os.path.realpath(Path(path).parent), Path(path).name)
        for path in paths
        if path.startswith("/") and "\0" not in path
    }
    return [path for path, place in places.items() if not any(place.is_relative_to(root) for root in real)]
