"""The way from the host's memory to one GPU: whatever is read goes by it, a few copies at a time.

A GPU that always has one more copy of ours to do comes to those of other processes only now and then. The driver makes
hundreds of small ones, one after the other, when it restores the tree. So before the GPU gets more it has done with
what it has: a restore beside our copies takes 0.30 s instead of 0.50 then, and they take 5 % longer (bench/restore).
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from queue import Empty, SimpleQueue
from typing import Any, NamedTuple

from vernal_worker.checkpoint.cuda.driver import bindings, call, copy_to_gpu
from vernal_worker.checkpoint.cuda.slots import Slot

_AT_ONCE = 4
"""Copies. That many slots take 0.3 ms; with one the GPU waits for us a fifth of the time."""


class _Filled(NamedTuple):
    slot: Slot
    parts: tuple[tuple[int, int], ...]
    then: Callable[[Any], None] | None


class Bus:
    """Slots for `readers`, threads that fill them, and the copies of what is in them. `run` is for one more thread."""

    def __init__(self, slots: Sequence[Slot], readers: int) -> None:
        self._readers = self._reading = readers
        self._free: SimpleQueue[Slot | None] = SimpleQueue()
        self._filled: SimpleQueue[_Filled | None] = SimpleQueue()
        for slot in slots:
            self._free.put(slot)

    def slot(self) -> Slot | None:
        """One to fill, once there is one. None: nothing will be copied any more."""
        return self._free.get()

    def copy(self, slot: Slot, parts: Iterable[tuple[int, int]], then: Callable[[Any], None] | None = None) -> None:
        """Have what is in a slot copied to `parts`, GPU addresses and lengths; it is free thereafter. `then` is called
        when it is there, with a stream for work on the GPU."""
        self._filled.put(_Filled(slot, tuple(parts), then))

    def no_more(self) -> None:
        """To be called once for each reader, whatever happened to it, and if it never began."""
        self._filled.put(None)

    def run(self) -> None:
        """Copy until no reader has more, and wait for what `then` began. A context is current. Raises: DriverError."""
        with stream() as copies, stream() as thereafter:
            queue = int(copies)
            while batch := self._next():
                for filled in batch:
                    memory = filled.slot.address
                    for address, count in filled.parts:
                        copy_to_gpu(address, memory, count, queue)
                        memory += count
                call("cuStreamSynchronize", copies)
                for filled in batch:
                    self._free.put(filled.slot)
                    if filled.then is not None:
                        filled.then(thereafter)

    def end(self) -> None:
        """To be called when `run` has ended, however it did, and if it never began."""
        for _ in range(self._readers):
            self._free.put(None)

    def _next(self) -> list[_Filled]:
        """What is to be copied next; empty when that was all."""
        batch: list[_Filled] = []
        while self._reading and len(batch) < _AT_ONCE:
            try:
                filled = self._filled.get(block=not batch)
            except Empty:
                break
            if filled is None:
                self._reading -= 1
            else:
                batch.append(filled)
        return batch


@contextmanager
def stream() -> Iterator[Any]:
    """One of the current context. Whatever is in it is done when this ends. Raises: DriverError."""
    made = call("cuStreamCreate", bindings().CUstream_flags.CU_STREAM_NON_BLOCKING)
    try:
        yield made
    finally:
        try:
            call("cuStreamSynchronize", made)
        finally:
            call("cuStreamDestroy", made)
