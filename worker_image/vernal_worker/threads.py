"""Threads that nobody waits for: none of them ends without a word."""

import errno
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable
from typing import TYPE_CHECKING, NoReturn

if TYPE_CHECKING:
    from logging import Logger

PAUSE_SECONDS = 1.0
"""Before work that failed is begun again."""

_SHORT = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})
"""Why no connection can be taken now, and one can later."""
_RETRY_SECONDS = 0.05

failures: Counter[str] = Counter()
"""How often the work of each thread failed, by the thread's name."""


def keep_running(
    name: str, work: Callable[[], None], failed: Callable[[str, Exception], None], *, pause: float = PAUSE_SECONDS
) -> threading.Thread:
    """Do `work` on a daemon thread until it returns. When it raises, `failed` is told the thread's name and why, and
    the work begins again after `pause` seconds: `work` must be such that this makes sense."""

    def run() -> None:
        while True:
            try:
                work()
                return
            except Exception as error:
                failures[name] += 1
                failed(name, error)
            time.sleep(pause)

    thread = threading.Thread(target=run, name=name, daemon=True)
    thread.start()
    return thread


def accept(listener: socket.socket, name: str, answer: Callable[[socket.socket], None]) -> NoReturn:
    """For ever, call `answer`, which owns it, with each connection that comes, on a thread of its own with this name:
    work for `keep_running`. A moment without descriptors or memory is waited for.

    Raises:
        OSError: the listener is not usable.
        RuntimeError: no thread could be started, and the connection was closed.
    """
    said = False
    while True:
        try:
            connection, _ = listener.accept()
            said = False
        except OSError as error:
            if error.errno not in _SHORT and not isinstance(error, ConnectionError):
                raise
            if not said:  # once: it may be so for minutes
                _logger().warning("%s cannot take a connection now, and tries again: %s", name, error)
            said = True
            time.sleep(_RETRY_SECONDS)
            continue
        try:
            threading.Thread(target=answer, args=(connection,), name=name, daemon=True).start()
        except RuntimeError:  # no more threads
            connection.close()
            raise


def log_failure(name: str, error: Exception) -> None:
    """For `keep_running` where there is no log but Python's."""
    _logger().error("thread %s failed and begins again", name, exc_info=error)


def _logger() -> "Logger":
    import logging  # here: a worker's start waits for each import; who may fail without descriptors imports it before

    return logging.getLogger(__name__)
