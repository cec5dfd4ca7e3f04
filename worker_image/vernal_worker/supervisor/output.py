"""Reads the engine's stdout and stderr and passes the lines on."""

import collections
import os
from functools import partial

from vernal_worker import threads
from vernal_worker.supervisor import log

_LONGEST = 64 << 10  # bytes; a longer line is passed on in parts
_KEPT = 400  # the reason is some hundred lines before the end


class Output:
    """Forwards what comes out of pipes, until every writer has closed them. Does not own the descriptors."""

    def __init__(self, *fds: int) -> None:
        self._tail: collections.deque[str] = collections.deque(maxlen=_KEPT)
        self._threads = [threads.keep_running("output", partial(self._pump, fd), log.thread_failed) for fd in fds]

    def tail(self) -> list[str]:
        """The last lines, to find out why it ended."""
        return list(self._tail)

    def join(self, timeout: float) -> None:
        """Wait for the pipes to end, `timeout` seconds at most."""
        for thread in self._threads:
            thread.join(timeout)

    def _pump(self, fd: int) -> None:
        rest = b""
        while True:
            try:
                data = os.read(fd, 1 << 16)
            except OSError:
                data = b""
            if not data:
                break
            *lines, rest = (rest + data).split(b"\n")
            if len(rest) > _LONGEST:
                lines.append(rest)
                rest = b""
            for line in lines:
                self._line(line)
        if rest:
            self._line(rest)

    def _line(self, line: bytes) -> None:
        text = line.decode(errors="replace").rstrip("\r").rpartition("\r")[2]  # of a progress bar, the last state
        if text:
            self._tail.append(text)
            log.engine_line(text)
