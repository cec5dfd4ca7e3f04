"""The helper process, started by `launch`, which passes on how many GPUs it is to have a context on from the beginning.

It ends when its stdin does, so it cannot outlive the supervisor. It opens the GPUs, but it is no part of the tree that
is frozen.
"""

import ctypes
import gc
import sys
import threading
from contextlib import suppress

from vernal_worker import imports


def main() -> None:
    """Initialise the driver, which takes longer than anything else, beside the imports of all that uses it."""
    initialised, contexts = threading.Event(), int(sys.argv[1])
    preparing = threading.Thread(target=_prepare, args=[contexts, initialised], daemon=True)
    preparing.start()
    gc.disable()  # as in a start: see `cli`
    imports.msgspec_alone()
    from vernal_worker.checkpoint.cuda import commands

    gc.freeze()
    gc.enable()
    commands.run(initialised, preparing, contexts)


def _prepare(contexts: int, initialised: threading.Event) -> None:
    """`cuInit`, and then contexts on the first GPUs, all at once. Whoever makes one of these calls next is told of
    errors."""
    try:
        with suppress(OSError, AttributeError):
            driver = ctypes.CDLL("libcuda.so.1")
            driver.cuInit(0)
    finally:
        initialised.set()
    threads = [threading.Thread(target=_retain, args=[device], daemon=True) for device in range(contexts)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def _retain(device: int) -> None:
    """That it is retained once more than released keeps it until the process ends."""
    with suppress(OSError, AttributeError):
        ctypes.CDLL("libcuda.so.1").cuDevicePrimaryCtxRetain(ctypes.byref(ctypes.c_void_p()), device)


if __name__ == "__main__":
    main()
