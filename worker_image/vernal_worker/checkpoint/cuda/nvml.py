"""How much memory of the GPUs is free, as NVML says (https://docs.nvidia.com/deploy/nvml-api).

CUDA could say it too, but in a context only, which takes half a GiB of the GPU and is in the way of whoever starts
there. Called in the helper, never in the tree that is frozen: NVML keeps devices open.
"""

import ctypes
import threading
from collections.abc import Sequence
from functools import cache
from typing import Any

_LIBRARY = "libnvidia-ml.so.1"
_lock = threading.Lock()


class _Memory(ctypes.Structure):
    """nvmlMemory_t."""

    _fields_ = (("total", ctypes.c_ulonglong), ("free", ctypes.c_ulonglong), ("used", ctypes.c_ulonglong))


@cache
def _library() -> Any:
    """None where there is none: a container without the driver's `utility` capability."""
    try:
        library = ctypes.CDLL(_LIBRARY)
    except OSError:
        return None
    return library if library.nvmlInit_v2() == 0 else None


def load() -> None:
    """Load and initialise the library, if that was not done yet; some ten milliseconds."""
    with _lock:
        _library()


def memory(uuids: Sequence[str]) -> list[tuple[int, int]]:
    """Bytes free and in all of each GPU, given by UUID in hex; empty if that cannot be told."""
    load()
    if (library := _library()) is None:
        return []
    found = []
    for uuid in uuids:
        info = _Memory()
        handle = _handle(library, uuid)
        if handle is None or library.nvmlDeviceGetMemoryInfo(handle, ctypes.byref(info)) != 0:
            return []
        found.append((int(info.free), int(info.total)))
    return found


def _handle(library: Any, uuid: str) -> ctypes.c_void_p | None:
    text = "-".join((uuid[:8], uuid[8:12], uuid[12:16], uuid[16:20], uuid[20:]))
    for kind in ("GPU", "MIG"):
        handle = ctypes.c_void_p()
        if library.nvmlDeviceGetHandleByUUID(f"{kind}-{text}".encode(), ctypes.byref(handle)) == 0:
            return handle
    return None
