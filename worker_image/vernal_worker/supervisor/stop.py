"""What tells the worker to stop: signals to process 1, or `POST /drain`."""

import signal
import threading
import time

from vernal_worker import threads
from vernal_worker.supervisor import log

SIGNALS = frozenset({signal.SIGTERM, signal.SIGINT})


class Stop:
    """Collects the wishes to stop. Instants are on the monotonic clock."""

    def __init__(self) -> None:
        self.wished = threading.Event()
        """Set by the first wish of either kind: take no new requests any more."""
        self.signalled = threading.Event()
        """Set by the first signal: give up whatever start, freeze or thaw is in progress."""
        self.at_once = threading.Event()
        """Set by the third signal: wait for nothing any more."""
        self.drain_asked_at: float | None = None
        self.signals: tuple[float, ...] = ()

    def install(self) -> None:
        """Take SIGTERM and SIGINT from now on. Must be called in the main thread, before it starts another one.

        A thread of its own waits for them: a handler runs in the main thread only, and not while that is in a call that
        does not return, for instance of storage that is gone.
        """
        # Also where it is process 1: a signal that is blocked is never ignored for want of a handler.
        signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
        threads.keep_running("signals", self._listen, log.thread_failed)

    def ask_drain(self) -> None:
        """What `POST /drain` does. Asking again changes nothing."""
        if self.drain_asked_at is None:
            self.drain_asked_at = time.monotonic()
            log.event("drain_asked", by="POST /drain")
            self.wished.set()

    def _listen(self) -> None:
        while True:
            signal.sigwait(SIGNALS)
            self.signals = (*self.signals, time.monotonic())
            self.signalled.set()
            self.wished.set()
            if len(self.signals) > 2:
                self.at_once.set()
