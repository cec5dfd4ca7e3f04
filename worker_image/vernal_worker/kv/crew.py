"""The engine's end of those who read and write blocks: jobs go out, answers come in, whoever does them.

A crew is one: if any of its processes dies, all do, which is seen as the end of their answers. Whoever has a crew then
has none of its jobs done, and starts another one with the next job.
"""

import contextlib
import logging
import os
import select
import socket
import threading
from collections.abc import Callable
from typing import NamedTuple, Protocol

from vernal_worker.kv import LOGGER
from vernal_worker.kv.jobs import Answer, Job, packed, unframed
from vernal_worker.kv.serving import View, Work, serve

_logger = logging.getLogger(LOGGER)
_READ_BYTES = 65_536  # what a pipe holds
_JOIN_SECONDS = 10.0  # for processes to end: they have nothing to do but that, unless storage hangs


def start_thread(name: str, run: Callable[[], None]) -> threading.Thread | None:
    """A daemon thread, started; None if none can be had, and then the log says so."""
    started = threading.Thread(target=run, name=name, daemon=True)
    try:
        started.start()
    except (RuntimeError, MemoryError) as error:  # a limit on processes, or no memory for a stack
        _logger.warning("no thread %s (%s): raise the pod's limits of processes (pids) and memory", name, error)
        return None
    return started


class GoneError(Exception):
    """Nobody does the jobs any more: what was not answered will not be, and nobody has its slots."""


class Ends(NamedTuple):
    """What those who do jobs have: where these come from, and a pipe for answers."""

    jobs: socket.socket
    answers: int

    def close(self) -> None:
        self.jobs.close()
        os.close(self.answers)


class Hands(Protocol):
    """Those who do jobs, once they were started."""

    def join(self, timeout: float) -> bool:
        """The engine has closed its ends: wait until they are gone, and see to it that they are. Returns whether."""


Start = Callable[[Ends], Hands]
"""Raises: OSError, RuntimeError, MemoryError: nobody could be started. The ends are its own from then on."""


class Crew:
    """Belongs to one thread, but for `wake`.

    Args:
        name: for messages, as in "no process for NAME".
        size: how many jobs are done at a time.
    """

    def __init__(self, name: str, size: int, start: Start) -> None:
        self.name = name
        self.size = size
        self._start = start
        self._wake = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._poll = select.poll()
        self._poll.register(self._wake, select.POLLIN)
        self._lock = threading.Lock()
        self._closed = False
        self._jobs: socket.socket | None = None
        self._answers = -1
        self._hands: Hands | None = None
        self._buffer = bytearray()

    def ready(self) -> bool:
        """Whether there is somebody to give jobs to; starts them if need be. The log says why not."""
        if self._jobs is not None:
            return True
        try:
            ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        except OSError as error:
            self._cannot(error)
            return False
        try:
            answers, answer = os.pipe()
        except OSError as error:
            ours.close()
            theirs.close()
            self._cannot(error)
            return False
        try:
            self._hands = self._start(Ends(theirs, answer))
        except (OSError, RuntimeError, MemoryError) as error:
            ours.close()
            os.close(answers)
            self._cannot(error)
            return False
        ours.setblocking(False)
        self._jobs, self._answers = ours, answers
        self._poll.register(answers, select.POLLIN)
        return True

    def _cannot(self, error: BaseException) -> None:
        _logger.warning(
            "no process for %s (%s); its work is left out: raise the pod's limits of processes (pids) and memory",
            self.name,
            error,
        )

    def send(self, job: Job) -> bool:
        """Returns whether it was taken. If not, there are jobs that must be answered first, or everybody is gone, which
        `receive` will say."""
        assert self._jobs is not None, "ready() comes first"
        try:
            self._jobs.send(packed(job))
        except OSError:
            return False
        return True

    def receive(self, timeout: float | None) -> list[Answer]:
        """All answers that are there. Waits for `timeout` seconds at most, without one until there are some, or until
        `wake`.

        Raises:
            GoneError: the crew has died; a new one is started by `ready`.
        """
        events = self._poll.poll(None if timeout is None else max(0, round(timeout * 1000)))
        answers: list[Answer] = []
        for descriptor, _ in events:
            if descriptor == self._wake:
                with contextlib.suppress(BlockingIOError):
                    os.eventfd_read(self._wake)
                continue
            data = os.read(self._answers, _READ_BYTES)
            if not data:
                self._let_go(0.0)
                raise GoneError(self.name)
            self._buffer += data
            answers, used = unframed(self._buffer)
            del self._buffer[:used]
        return answers

    def wake(self) -> None:
        """`receive` returns, now or when it is called next. For any thread."""
        with self._lock:
            if not self._closed:
                os.eventfd_write(self._wake, 1)

    def close(self) -> None:
        """Nobody of the crew is left, nor any of its descriptors, unless storage holds a process that nothing ends."""
        self._let_go(_JOIN_SECONDS)
        with self._lock:
            if not self._closed:
                self._closed = True
                os.close(self._wake)

    def _let_go(self, timeout: float) -> None:
        if self._jobs is None or self._hands is None:
            return
        with contextlib.suppress(OSError):
            self._jobs.shutdown(socket.SHUT_RDWR)  # also where a fork of the engine's process has it open
        self._jobs.close()
        self._poll.unregister(self._answers)
        os.close(self._answers)
        self._jobs = None
        self._buffer.clear()
        if not self._hands.join(timeout):
            _logger.warning("a process for %s does not end: storage that hangs holds it", self.name)
        self._hands = None


class Threads:
    """Threads of this process that do jobs: where storage is a test's.

    Raises:
        RuntimeError, MemoryError: none could be started.
    """

    def __init__(self, ends: Ends, count: int, view: View, work: Work) -> None:
        self._ends = ends
        self._lock = threading.Lock()
        self._left = 0
        try:
            for number in range(count):
                self._add(number, view, work)
        except (RuntimeError, MemoryError):
            if not self._left:
                ends.close()
                raise

    def _add(self, number: int, view: View, work: Work) -> None:
        with self._lock:
            threading.Thread(
                target=self._run, args=(view, work), name=f"vernal-kv-storage-{number}", daemon=True
            ).start()
            self._left += 1

    def _run(self, view: View, work: Work) -> None:
        try:
            serve(self._ends.jobs, self._ends.answers, view, work)
        finally:
            with self._lock:
                self._left -= 1
                if not self._left:
                    self._ends.close()

    def join(self, timeout: float) -> bool:
        """They end by themselves: one that storage holds has slots of nobody's by then."""
        return True


def threads(name: str, count: int, view: View, work: Work) -> Crew:
    """A crew of threads of this process."""
    return Crew(name, count, lambda ends: Threads(ends, count, view, work))
