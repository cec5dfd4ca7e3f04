"""Starting processes that read and write blocks, so that the engine's has nothing to do with it.

Reading a block is a handful of system calls and a digest, for each of which a thread gives the interpreter away and
takes it back, from the engine's own thread. Other processes have interpreters of their own. They import neither torch
nor vLLM, and share nothing with the engine but the slots' memory, a socket and a pipe.
"""

import os
import signal
import subprocess
import sys
from pathlib import Path

import blake3
import msgspec
import vernal_contract

import vernal_worker
from vernal_worker.kv.blockstore import BlockStore
from vernal_worker.kv.child import Order
from vernal_worker.kv.crew import Crew, Ends
from vernal_worker.kv.slots import Slots

_THREADS = 4
"""Of a process: more would wait for one another's interpreter."""

_KILL_SECONDS = 10.0
_PROGRAM = (
    "import sys; sys.path[:0] = [path for path in sys.argv[2:] if path not in sys.path]; "
    "from vernal_worker.kv.child import main; main()"
)


class Processes:
    """Running ones.

    Raises:
        OSError: they could not be started.
    """

    def __init__(self, ends: Ends, order: Order) -> None:
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-I", "-c", _PROGRAM, msgspec.json.encode(order).decode(), *_paths()],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                pass_fds=(order.jobs, order.answers, order.memory),
                start_new_session=True,  # what a terminal's user interrupts is the engine, which ends them
            )
        finally:
            ends.close()

    def join(self, timeout: float) -> bool:
        """As `Hands.join`: the first process ends last, and the group is killed if storage holds one of them."""
        for seconds in (timeout, _KILL_SECONDS):
            try:
                self._process.wait(seconds)
            except subprocess.TimeoutExpired:
                try:
                    os.killpg(self._process.pid, signal.SIGKILL)
                except ProcessLookupError:
                    continue
            else:
                return True
        return False


def processes(name: str, count: int, store: BlockStore, slots: Slots, *, writes: bool, populate: bool) -> Crew:
    """A crew that does `count` jobs at a time.

    Args:
        slots: must have a descriptor.
        writes: blocks are written; else read.
        populate: whether the slots' memory is there already, as it is where it is page-locked.
    """
    shares = _shares(count)

    def start(ends: Ends) -> Processes:
        if slots.descriptor is None:
            ends.close()
            raise RuntimeError("the slots are closed")
        order = Order(
            name=name,
            writes=writes,
            root=str(store.root),
            fingerprint=store.layout.fingerprint.hex(),
            tokens=store.layout.tokens,
            payload_bytes=store.layout.payload_bytes,
            threads=shares,
            slots=slots.count,
            jobs=ends.jobs.fileno(),
            answers=ends.answers,
            memory=slots.descriptor,
            populate=populate,
        )
        return Processes(ends, order)

    return Crew(name, count, start)


def _shares(count: int) -> tuple[int, ...]:
    """Threads of each process."""
    number = -(-count // _THREADS)
    return tuple(count // number + (at < count % number) for at in range(number))


def _paths() -> list[str]:
    """Where this process has what they import."""
    files = (vernal_worker.__file__, vernal_contract.__file__, blake3.__file__, msgspec.__file__)
    return list(dict.fromkeys(str(Path(file).resolve().parents[1]) for file in files if file))
