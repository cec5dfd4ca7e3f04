"""The helper process, started by `launch`, which passes on how many GPUs it is to have a context on from the beginning.

It ends when its stdin does, so it cannot outlive the supervisor. It opens the GPUs, but it is no part of the tree that
is frozen.
"""

import gc
import os
import sys

from vernal_worker import imports
from vernal_worker.checkpoint.cuda.preparing import Preparation


def main() -> None:
    """Initialise the driver, which takes longer than anything else, beside the imports of all that uses it."""
    code = 1
    try:
        preparation = Preparation(int(sys.argv[1]))
        gc.disable()  # as in a start: see `cli`
        imports.msgspec_alone()
        from vernal_worker.checkpoint.cuda import commands

        gc.freeze()
        gc.enable()
        commands.run(preparation)
        code = 0
    except BaseException:
        sys.excepthook(*sys.exc_info())
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)  # threads may be in calls of the driver, which the driver's own end would meet


if __name__ == "__main__":
    main()
