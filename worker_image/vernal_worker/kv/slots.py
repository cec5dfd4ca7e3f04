"""Host memory for blocks on their way between storage and the engine: a fixed number of slots, one block each."""

import threading
from collections.abc import Iterable
from typing import Protocol


class Fence(Protocol):
    """Marks a copy that a device does in its own time."""

    def done(self) -> bool: ...

    def wait(self) -> None: ...


class Done:
    """The fence of a copy that is over."""

    def done(self) -> bool:
        return True

    def wait(self) -> None:
        return


class Slots:
    """Slots in `memory`, whose length must be a multiple of `slot_bytes`. May be used from any thread."""

    def __init__(self, memory: memoryview, slot_bytes: int) -> None:
        if slot_bytes < 1 or len(memory) < slot_bytes or len(memory) % slot_bytes:
            raise ValueError(f"{len(memory)} bytes are not a number of slots of {slot_bytes} bytes")
        self._memory = memory
        self._bytes = slot_bytes
        self.count = len(memory) // slot_bytes
        self._free = list(range(self.count))
        self._changed = threading.Condition()

    def view(self, slot: int) -> memoryview:
        return self._memory[slot * self._bytes : (slot + 1) * self._bytes]

    def take(self, timeout: float = 0.0) -> int | None:
        """A free slot, or None if there is none within `timeout` seconds."""
        return next(iter(self.take_some(1, timeout)), None)

    def take_some(self, count: int, timeout: float = 0.0) -> list[int]:
        """As many free slots as there are, `count` at most and, if it takes no longer than `timeout` seconds, one at
        least. As long as as many are taken at a time as are given back, they are next to one another."""
        with self._changed:
            if not self._free and timeout > 0:
                self._changed.wait_for(lambda: self._free, timeout)
            taken = self._free[-count:]
            del self._free[-count:]
            return taken

    def close(self) -> None:
        """No copy uses the slots any more."""

    def give_back(self, slots: Iterable[int]) -> None:
        with self._changed:
            free = len(self._free)
            self._free.extend(slots)
            self._changed.notify(len(self._free) - free)
