"""Process 1 ends inside the grace period even if its own main thread hangs, for instance in a call to storage that is
gone. When process 1 of a PID namespace exits, the kernel kills all others in it."""

import os
import sys
import threading
import time
from collections.abc import Callable
from functools import partial

from vernal_worker import threads
from vernal_worker.supervisor import log
from vernal_worker.supervisor.exits import ExitCode
from vernal_worker.supervisor.stop import Stop

MARGIN_SECONDS = 1.0
"""How long before SIGKILL it acts; less in a grace period so short that it would cut the drain's own end."""

_FAREWELL_SECONDS = 0.5
"""For last words. Who hangs may hold the log's lock, or nobody may read the log any more."""


def _farewell_seconds(margin: float) -> float:
    return min(_FAREWELL_SECONDS, margin / 2)


def start(stop: Stop, grace_seconds: float, farewell: Callable[[ExitCode, str], None]) -> None:
    """End the process with `ExitCode.OUT_OF_TIME` shortly before `grace_seconds` after the first signal."""
    threads.keep_running("watchdog", partial(_watch, stop, grace_seconds, farewell), log.thread_failed)


def _watch(stop: Stop, grace_seconds: float, farewell: Callable[[ExitCode, str], None]) -> None:
    stop.signalled.wait()
    margin = min(MARGIN_SECONDS, grace_seconds / 20)
    time.sleep(max(0.0, stop.signals[0] + grace_seconds - margin - time.monotonic()))

    def speak() -> None:
        import traceback  # here: a start waits for each import, and `admin` has it once CRIU runs

        frame = sys._current_frames().get(threading.main_thread().ident or 0)
        log.failure("out_of_time", stack="".join(traceback.format_stack(frame)) if frame is not None else "")
        said = f"not done {margin:g} s before the end of the grace period of {grace_seconds:g} s"
        farewell(ExitCode.OUT_OF_TIME, said)

    speaker = threading.Thread(target=speak, name="farewell", daemon=True)
    speaker.start()
    speaker.join(_farewell_seconds(margin))
    os._exit(ExitCode.OUT_OF_TIME)
