"""A process whose main thread is stuck ends itself inside the grace period, and says where it was stuck."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest
from patience import GUARD_SECONDS, until
from vernal_worker.supervisor.exits import ExitCode

GRACE = 3.0
PROGRAM = """
import ctypes, fcntl, os, sys, threading, time
from vernal_worker.supervisor import log, watchdog
from vernal_worker.supervisor.stop import Stop
from vernal_worker.supervisor.farewell import say_farewell
stop = Stop()
stop.install()
{setup}
watchdog.start(stop, {grace}, say_farewell)

def interruptible():
    while True:
        stop.at_once.wait()
        stop.at_once.clear()

def storage_that_is_gone():
    # Like a call that waits for storage in the kernel, pthread_mutex_lock(3) is not interrupted by a signal.
    mutex = ctypes.create_string_buffer(64)
    libc = ctypes.CDLL(None)
    libc.pthread_mutex_lock(mutex)
    print("ready", flush=True)
    libc.pthread_mutex_lock(mutex)

def log_that_nobody_reads():
    print("ready", flush=True)
    sys.stdin.readline()
    log._lock.acquire()
    storage_that_is_gone()

{main}()
"""


def run(main: str, setup: str = "") -> subprocess.Popen[str]:
    program = PROGRAM.format(grace=GRACE, main=main, setup=setup)
    process = subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None and process.stdout.readline() == "ready\n"
    return process


def test_a_main_thread_in_a_call_that_no_signal_interrupts() -> None:
    # Last words are all that it still waits for: a slow machine may take longer over them than a worker would wait.
    with run("storage_that_is_gone", f"watchdog._farewell_seconds = lambda margin: {GUARD_SECONDS}") as process:
        process.send_signal(signal.SIGTERM)
        code = process.wait(GUARD_SECONDS)
        assert process.stdout is not None
        said = process.stdout.read()
    assert code == ExitCode.OUT_OF_TIME
    assert "storage_that_is_gone" in said and "event=exit code=15" in said


def test_last_words_that_cannot_be_said() -> None:
    with run("log_that_nobody_reads") as process:
        assert process.stdin is not None and process.stdout is not None
        process.stdin.write("go\n")
        process.stdin.flush()
        assert process.stdout.readline() == "ready\n"
        process.send_signal(signal.SIGTERM)
        assert process.wait(GUARD_SECONDS) == ExitCode.OUT_OF_TIME


@pytest.mark.parametrize("signals", [1, 2, 3])
def test_signals_are_counted_whatever_the_main_thread_does(signals: int) -> None:
    """Each is seen while the main thread is in a call; the third one sets `at_once`."""
    program = f"""
import sys, time
from vernal_worker.supervisor.stop import Stop
stop = Stop()
stop.install()
print("ready", flush=True)
sys.stdin.readline()
while len(stop.signals) < {signals}:
    time.sleep(0.01)
for event in (stop.signalled, stop.wished, *([stop.at_once] if {signals} > 2 else [])):
    event.wait({GUARD_SECONDS})  # a signal is counted before they are set
print(len(stop.signals), stop.wished.is_set(), stop.signalled.is_set(), stop.at_once.is_set(), flush=True)
"""
    with subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdin is not None and process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        for count in range(signals):
            process.send_signal(signal.SIGTERM if count % 2 else signal.SIGINT)
            _wait_taken(process)
        process.stdin.write("\n")
        process.stdin.flush()
        assert process.stdout.readline() == f"{signals} True True {signals > 2}\n"


DEAF_FOR_A_MOMENT = """
import signal
wait, failures = signal.sigwait, [MemoryError("planted")]

def fails_once(signals):
    if failures:
        raise failures.pop()
    return wait(signals)

signal.sigwait = fails_once
from vernal_worker import threads
from vernal_worker.supervisor.stop import Stop
stop = Stop()
stop.install()
assert stop.wished.wait(%f)
print(len(stop.signals), threads.failures["signals"], flush=True)
"""


def test_a_signal_is_heard_though_hearing_failed_once() -> None:
    with subprocess.Popen(
        [sys.executable, "-c", DEAF_FOR_A_MOMENT % GUARD_SECONDS], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert "event=thread_failed thread=signals" in process.stdout.readline()
        process.send_signal(signal.SIGTERM)
        assert process.stdout.readline() == "1 1\n"


def _wait_taken(process: "subprocess.Popen[str]") -> None:
    """Until no signal is pending for it any more: the next one of the same kind would be lost."""
    until(
        "the signal to be taken",
        lambda: all(
            int(line.split()[1], 16) == 0
            for line in Path(f"/proc/{process.pid}/status").read_text().splitlines()
            if line.startswith("ShdPnd:")
        ),
    )
