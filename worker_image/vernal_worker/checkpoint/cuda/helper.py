"""The helper process: `python -m vernal_worker.checkpoint.cuda.helper`, started by `launch`.

It ends when its stdin does, so it cannot outlive the supervisor. It opens the GPUs, but it is no part of the tree that
is frozen.
"""

import ctypes
import threading
from contextlib import suppress


def main() -> None:
    """Initialise the driver, which takes longer than anything else, beside the imports of all that uses it."""
    initialising = threading.Thread(target=_initialise, daemon=True)
    initialising.start()
    from vernal_worker.checkpoint.cuda import commands

    commands.run(initialising)


def _initialise() -> None:
    with suppress(OSError, AttributeError):  # who calls it next is told
        ctypes.CDLL("libcuda.so.1").cuInit(0)


if __name__ == "__main__":
    main()
