"""From a file to the GPU, by this process itself.

After a thaw on a GPU that the frozen process did not know: the driver does not let it import memory from there (seen
with driver 580), so that it cannot adopt the helper's.
"""

import threading
from pathlib import Path

from vernal_worker.checkpoint.cuda import transfer
from vernal_worker.checkpoint.cuda.driver import call
from vernal_worker.checkpoint.cuda.layout import file_names, ranges
from vernal_worker.engine.weights.save import allocations, stored


def load(begin: Path, piece: int, digests: list[str] | None, threads: int) -> None:
    """Fill the weights, which are mapped, from the files whose paths begin with `begin`. `digests`: of each `piece`
    bytes of them, None to trust the storage.

    Raises:
        DigestError, OSError, DriverError.
    """
    import torch

    size, parts = stored(allocations())
    source = transfer.Source([begin.with_name(name) for name in file_names(begin.name, size)])
    try:
        context = call("cuCtxGetCurrent")
        transfer.load(source, ranges(size, piece), parts, digests, context, threads, threading.Event())
    finally:
        source.close()
    torch.cuda.synchronize()
