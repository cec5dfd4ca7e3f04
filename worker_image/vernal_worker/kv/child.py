"""What a process that reads or writes blocks does: see `vernal_worker.kv.processes`, which starts it.

It forks its siblings once it has imported what it needs, serves like them, and outlives them. When the engine closes
its end of the socket, or dies, all of them end at once. When one of them dies, so do the others: what is not answered
is then known to be nobody's any more.
"""

import contextlib
import mmap
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NoReturn

import msgspec
from vernal_contract import decoding

from vernal_worker.kv.blockstore import BlockStore, Layout
from vernal_worker.kv.serving import reads_of, serve, writes_of

_OVER = 0
_DIED = 1


class Order(msgspec.Struct, frozen=True):
    """What to do.

    Attributes:
        name: of the processes, as `ps` shows it.
        writes: blocks are written; else read.
        threads: of each process.
        jobs, answers, memory: file descriptors.
        populate: whether the memory is there already: then none of it is waited for.
    """

    name: str
    writes: bool
    root: str
    fingerprint: str
    tokens: int
    payload_bytes: int
    threads: tuple[int, ...]
    slots: int
    jobs: int
    answers: int
    memory: int
    populate: bool


def main() -> NoReturn:
    order = decoding.json(sys.argv[1], Order)
    store = BlockStore(Path(order.root), Layout(bytes.fromhex(order.fingerprint), order.tokens, order.payload_bytes))
    life, keeper = os.pipe()  # which all but the first read, and nobody writes to: it ends with the first
    siblings: set[int] = set()
    for threads in order.threads[1:]:
        try:
            pid = os.fork()
        except OSError as error:
            print(f"{order.name}: fewer processes than wanted: {error}", file=sys.stderr)
            break
        if pid == 0:
            os.close(keeper)
            _be_sibling(order, store, threads, life)
        siblings.add(pid)
    os.close(life)
    over = threading.Event()
    _serve(order, store, order.threads[0], end=over.set)
    while siblings:
        pid, status = os.wait()
        siblings.discard(pid)
        if status != _OVER:
            _end(siblings)
    over.wait()
    os._exit(_OVER)


def _be_sibling(order: Order, store: BlockStore, threads: int, life: int) -> NoReturn:
    try:
        _serve(order, store, threads, end=lambda: os._exit(_OVER))
    except RuntimeError as error:  # a limit on threads: the others do its work
        print(f"{order.name}: fewer processes than wanted: {error}", file=sys.stderr)
        os._exit(_OVER)
    os.read(life, 1)
    os._exit(_DIED)


def _end(siblings: Iterable[int]) -> NoReturn:
    for pid in siblings:
        os.kill(pid, signal.SIGKILL)
    for pid in siblings:
        os.waitpid(pid, 0)
    os._exit(_DIED)


def _serve(order: Order, store: BlockStore, count: int, end: Callable[[], object]) -> None:
    """Start threads, as many of `count` as can be had; calls `end` when one finds that there is nothing more to do.

    Raises:
        RuntimeError: not one could be started.
    """
    with contextlib.suppress(OSError):
        Path("/proc/self/comm").write_text(order.name)
    flags = mmap.MAP_SHARED | (mmap.MAP_POPULATE if order.populate else 0)
    size = order.payload_bytes
    memory = memoryview(mmap.mmap(order.memory, order.slots * size, flags))
    os.close(order.memory)
    jobs = socket.socket(fileno=order.jobs)
    work = writes_of(store) if order.writes else reads_of(store)

    def run() -> None:
        serve(jobs, order.answers, lambda slot: memory[slot * size : (slot + 1) * size], work)
        end()

    for number in range(count):
        try:
            threading.Thread(target=run, daemon=True).start()
        except RuntimeError:
            if number == 0:
                raise
            return
