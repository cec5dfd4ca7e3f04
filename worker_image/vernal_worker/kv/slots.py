"""Host memory for blocks on their way between storage and the engine: a fixed number of slots, one block each."""

import threading
from collections.abc import Iterable
from typing import Protocol

_FREE, _TAKEN = b"\1", b"\0"


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

    descriptor: int | None = None
    """Of the memory, for a process that is to have it too. None where that is not possible."""

    def __init__(self, memory: memoryview, slot_bytes: int) -> None:
        if slot_bytes < 1 or len(memory) < slot_bytes or len(memory) % slot_bytes:
            raise ValueError(f"{len(memory)} bytes are not a number of slots of {slot_bytes} bytes")
        self._memory: memoryview | None = memory
        self.slot_bytes = slot_bytes
        self.count = len(memory) // slot_bytes
        self._map = bytearray(_FREE * self.count)
        self._next = 0  # where to look first: what is free is then in long runs
        self._changed = threading.Condition()

    @property
    def free(self) -> int:
        return self._map.count(_FREE)

    def view(self, slot: int) -> memoryview:
        """Raises: RuntimeError: the slots are closed."""
        if self._memory is None:
            raise RuntimeError("the slots are closed")
        return self._memory[slot * self.slot_bytes : (slot + 1) * self.slot_bytes]

    def take(self, count: int = 1, timeout: float = 0.0) -> range:
        """Free slots that follow one another, `count` at most. None at all if there is none within `timeout` seconds.
        Fewer than `count`, though more are free elsewhere, where they do not follow one another."""
        with self._changed:
            if timeout > 0:
                self._changed.wait_for(lambda: _FREE in self._map, timeout)
            count = min(count, self._map.count(_FREE))
            while count:
                at = self._map.find(_FREE * count, self._next)
                if at < 0:
                    at = self._map.find(_FREE * count)
                if at >= 0:
                    self._map[at : at + count] = _TAKEN * count
                    self._next = at + count
                    return range(at, at + count)
                count -= 1 + count // 8
            return range(0)

    def give_back(self, slots: Iterable[int]) -> None:
        with self._changed:
            for slot in slots:
                self._map[slot] = _FREE[0]
            self._changed.notify_all()

    def close(self) -> None:
        """No copy uses the slots any more."""
        self._memory = None
