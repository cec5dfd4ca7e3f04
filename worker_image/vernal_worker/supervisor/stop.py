"""What tells the worker to stop: signals to process 1, or `POST /drain`."""

import signal
import threading
import time
from types import FrameType

from vernal_worker.supervisor import log


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
        """Handle SIGTERM and SIGINT. Must be called in the main thread."""
        signal.signal(signal.SIGTERM, self._on_signal)
        signal.signal(signal.SIGINT, self._on_signal)

    def ask_drain(self) -> None:
        """What `POST /drain` does. Asking again changes nothing."""
        if self.drain_asked_at is None:
            self.drain_asked_at = time.monotonic()
            log.event("drain_asked", by="POST /drain")
            self.wished.set()

    def _on_signal(self, _number: int, _frame: FrameType | None) -> None:
        # Runs between two steps of the main thread, which may hold the log's lock: so nothing is logged here.
        self.signals = (*self.signals, time.monotonic())
        self.signalled.set()
        self.wished.set()
        if len(self.signals) > 2:
            self.at_once.set()
