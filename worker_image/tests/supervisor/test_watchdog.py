"""A process whose main thread is stuck ends itself inside the grace period, and says where it was stuck."""

import signal
import subprocess
import sys
import time

from patience import GUARD_SECONDS
from vernal_worker.supervisor.exits import ExitCode

GRACE = 3.0
STUCK = f"""
import threading
from vernal_worker.supervisor import watchdog
from vernal_worker.supervisor.stop import Stop
from vernal_worker.supervisor.farewell import say_farewell
stop = Stop()
stop.install()
watchdog.start(stop, {GRACE}, say_farewell)
print("ready", flush=True)
def storage_that_is_gone():
    while True:
        stop.at_once.wait()
        stop.at_once.clear()
storage_that_is_gone()
"""


def test_a_stuck_main_thread() -> None:
    with subprocess.Popen([sys.executable, "-c", STUCK], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stdout.readline() == "ready\n"
        began = time.monotonic()
        process.send_signal(signal.SIGTERM)
        code = process.wait(GUARD_SECONDS)
        seconds = time.monotonic() - began
        said = process.stdout.read()
    assert code == ExitCode.OUT_OF_TIME and seconds > GRACE * 0.8, (code, seconds)
    assert "storage_that_is_gone" in said and "event=exit code=15" in said
