"""What every process of the engine's tree does, seen on real processes."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from patience import GUARD_SECONDS

CHILD = "import signal, sys; signal.signal(signal.SIGTERM, lambda *_: sys.exit(9)); print('up', flush=True); input()"
PARENT = f"""
import subprocess, sys
from vernal_worker.engine import process
process.shield()
child = subprocess.Popen([sys.executable, "-c", {CHILD!r}])
print(child.pid, flush=True)
child.wait()
print("child", child.returncode, flush=True)
process.unshield()
print("unshielded", flush=True)
input()
"""


def test_a_shielded_tree_does_not_hear_sigterm() -> None:
    """A child that installs a handler of its own, as vLLM's processes do, is shielded too."""
    with subprocess.Popen(
        [sys.executable, "-c", PARENT], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as parent:
        assert parent.stdout and parent.stdin
        child = int(parent.stdout.readline())
        assert parent.stdout.readline() == "up\n"
        for pid in (parent.pid, child):
            os.kill(pid, signal.SIGTERM)
            os.kill(pid, signal.SIGINT)
        parent.stdin.write("\n")
        parent.stdin.flush()
        assert parent.stdout.readline() == "child 0\n"
        assert parent.stdout.readline() == "unshielded\n"  # what came meanwhile is forgotten
        os.kill(parent.pid, signal.SIGTERM)
        assert parent.wait(GUARD_SECONDS) == -signal.SIGTERM


DRAW = """
import random, numpy, sys
from vernal_worker.engine import process
random.seed(1); numpy.random.seed(1)
process.become({"NEW": "x"}, int(sys.argv[1]))
import os
print(random.random(), numpy.random.random(), os.environ["NEW"])
"""


def test_clones_draw_the_same_numbers_only_with_the_same_seed() -> None:
    def draw(seed: int) -> str:
        return subprocess.check_output([sys.executable, "-c", DRAW, str(seed)], text=True)

    first, again, other = draw(2**63 - 1), draw(2**63 - 1), draw(7)
    assert first == again != other
    assert set(first.split()) & set(other.split()) == {"x"}


LEAVES = """
import atexit, multiprocessing, sys
from vernal_worker.engine import process

class Freed:
    def __del__(self):
        print("freed")

def work():
    global kept
    kept = Freed()
    atexit.register(print, "exit handler")
    print("worked")  # stays in the buffer
    sys.exit(7)

if __name__ == "__main__":
    child = multiprocessing.get_context("spawn").Process(target=work)
    child.start()
    child.join()
    print("child", child.exitcode, flush=True)
    process.leave(3)
elif sys.argv[1:] == ["at once"]:
    process.leave_when_done()
"""


def test_a_process_that_leaves_runs_its_exit_handlers_and_frees_nothing(tmp_path: Path) -> None:
    """The same program without `leave_when_done` shows that the child would free its objects."""
    (tmp_path / "program.py").write_text(LEAVES)
    for arguments, freed in ((["at once"], []), ([], ["freed"])):
        done = subprocess.run(
            [sys.executable, str(tmp_path / "program.py"), *arguments], stdout=subprocess.PIPE, text=True, check=False
        )
        assert done.stdout.splitlines() == ["worked", "exit handler", *freed, "child 7"]
        assert done.returncode == 3


FAILS = """
import multiprocessing, os, signal, sys
from vernal_worker.engine import process

def grandchild(up):
    print("up", flush=True)
    up.set()
    while True:
        signal.pause()

def child():
    up = multiprocessing.Event()
    if sys.argv[1] == "parent":
        grandchild(up)
    multiprocessing.Process(target=grandchild, args=[up], daemon=True).start()
    up.wait()
    raise ValueError("To serve at least one request")

if __name__ == "__main__":
    process.shield()
    multiprocessing.set_start_method("spawn")
    started = multiprocessing.Process(target=child)
    started.start()
    if sys.argv[1] == "child":
        started.join()
        assert started.exitcode == 1
    os.read(0, 1)
    process.leave(9)
elif __name__ == "__mp_main__":
    process.shield()
    process.leave_when_done()
"""


@pytest.mark.parametrize("who", ["child", "parent"])
def test_a_process_that_failed_does_not_wait_for_children_that_hear_no_signal(tmp_path: Path, who: str) -> None:
    """As EngineCore does when its worker is up and its memory does not suffice."""
    (tmp_path / "program.py").write_text(FAILS)
    read, write = os.pipe()
    with subprocess.Popen(
        [sys.executable, str(tmp_path / "program.py"), who],
        stdin=read,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as parent:
        try:
            assert parent.stdout and parent.stdout.readline() == "up\n"
            os.write(write, b"x")
            _, errors = parent.communicate(timeout=GUARD_SECONDS)
        finally:
            parent.kill()
            os.close(read)
            os.close(write)
    assert parent.returncode == 9, errors
    assert ("To serve at least one request" in errors) == (who == "child")


HANGS = """
import atexit, threading
from vernal_worker.engine import process

process.EXIT_SECONDS = 0.01
atexit.register(threading.Event().wait)
process.leave(9)
"""


def test_no_exit_handler_keeps_a_process_that_has_failed() -> None:
    """As vLLM's sometimes does after a start that failed: it writes into a socket that nobody reads."""
    done = subprocess.run([sys.executable, "-c", HANGS], timeout=GUARD_SECONDS, check=False)
    assert done.returncode == 9


TRACKER = """
import asyncio, os, signal
from multiprocessing import resource_tracker
from vernal_worker.engine import process

process.shield()
process.shield()
tracker = resource_tracker._resource_tracker
first = tracker._pid

async def main():
    told = asyncio.Event()
    count = []
    descriptors = len(os.listdir("/proc/self/fd"))
    for _ in range(2):  # each program that connects begins it
        process.watch_tracker(asyncio.get_running_loop(), lambda: (count.append(1), told.set()))
    assert len(os.listdir("/proc/self/fd")) == descriptors + 1
    for turn in range(2):
        last = tracker._pid
        os.kill(last, signal.SIGKILL)
        async with asyncio.timeout(120):
            await told.wait()
        told.clear()
        resource_tracker.register("/planted", "shared_memory")  # which starts the next one
        resource_tracker.unregister("/planted", "shared_memory")
        await asyncio.sleep(0)
        print(len(count), tracker._pid != last, signal.SIGTERM in signal.pthread_sigmask(signal.SIG_BLOCK, []))
    process.unwatch_tracker()
    print(len(os.listdir("/proc/self/fd")) - descriptors)

asyncio.run(main())
"""


def test_a_resource_tracker_that_dies_is_said_once_and_opens_no_shield() -> None:
    """Whoever starts the next one must not hear SIGTERM from then on."""
    output = subprocess.check_output([sys.executable, "-W", "ignore", "-c", TRACKER], text=True, timeout=GUARD_SECONDS)
    assert output == "1 True True\n2 True True\n0\n", "and so is the next one's death; a freeze finds no pidfd"
