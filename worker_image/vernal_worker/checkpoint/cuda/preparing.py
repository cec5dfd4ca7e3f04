"""What a helper does before there is a command, beside the imports of all that uses the driver. Imports little: nothing
takes as long as `cuInit`, which begins here.
"""

import ctypes
import threading
from contextlib import suppress

TYPE_CHECKING = False  # `typing` itself is a fifth of what is imported here
if TYPE_CHECKING:
    from vernal_worker.checkpoint.cuda.slots import Slots


class Preparation:
    """`cuInit`, and then contexts on the first GPUs, all at once; and slots for as many ranks. Whoever makes one of
    these calls of the driver next is told of its errors."""

    def __init__(self, contexts: int) -> None:
        """Begins, with so many contexts."""
        self._initialised = threading.Event()
        devices = range(contexts)
        self._contexts = [threading.Thread(target=self._retain, args=[device], daemon=True) for device in devices]
        self._slots: Slots | None = None
        self._making_slots = threading.Thread(target=self._make_slots, args=[contexts], daemon=True)
        threading.Thread(target=self._initialise, daemon=True).start()
        self._making_slots.start()
        for thread in self._contexts:
            thread.start()

    def wait_initialised(self) -> None:
        """Until `cuInit` was called."""
        self._initialised.wait()

    def keep(self, count: int) -> int:
        """So many are needed: wait until these are there, or could not be made, and let go of the others, which is
        waited for where none is needed. Returns how many there are."""
        self._contexts, others = self._contexts[:count], self._contexts[count:]
        going = [
            threading.Thread(target=_release, args=[device, thread], daemon=True)
            for device, thread in enumerate(others, len(self._contexts))
        ]
        for thread in going:
            thread.start()
        for thread in self._contexts or going:
            thread.join()
        return len(self._contexts)

    def slots(self, count: int) -> "Slots | None":
        """Those that were made, if they are so many."""
        self._making_slots.join()
        return self._slots if self._slots is not None and self._slots.count >= count else None

    def _make_slots(self, contexts: int) -> None:
        from vernal_worker.checkpoint.cuda import slots  # here: `cuInit` waits for no import

        with suppress(OSError):  # no memory: who needs some is told
            self._slots = slots.Slots(count) if (count := slots.most(contexts)) else None

    def _initialise(self) -> None:
        try:
            with suppress(OSError, AttributeError):
                _driver().cuInit(0)
        finally:
            self._initialised.set()

    def _retain(self, device: int) -> None:
        """That it is retained once more than released keeps it until the process ends."""
        self._initialised.wait()
        with suppress(OSError, AttributeError):
            _driver().cuDevicePrimaryCtxRetain(ctypes.byref(ctypes.c_void_p()), device)


def _release(device: int, made: threading.Thread) -> None:
    made.join()
    with suppress(OSError, AttributeError):
        _driver().cuDevicePrimaryCtxRelease_v2(device)


def _driver() -> ctypes.CDLL:
    return ctypes.CDLL("libcuda.so.1")
