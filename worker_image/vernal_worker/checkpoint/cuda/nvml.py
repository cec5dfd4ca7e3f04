"""How much memory of the GPUs is free, and what they are, as NVML says (https://docs.nvidia.com/deploy/nvml-api).

CUDA could say it too, but in a context only, which takes half a GiB of the GPU and is in the way of whoever starts
there. Called in the helper and beside the supervisor, or in it, never in the tree that is frozen: it keeps devices
open. Imports little: a start asks before the helper keeps the driver busy.
"""

import ctypes
import threading
from functools import cache
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Sequence

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


def _loaded() -> Any:
    """The library; loaded and initialised if that was not done yet, some ten milliseconds."""
    with _lock:
        return _library()


def memory(uuids: "Sequence[str]") -> list[tuple[int, int]]:
    """Bytes free and in all of each GPU, given by UUID in hex; empty if that cannot be told."""
    if (library := _loaded()) is None:
        return []
    found = []
    for uuid in uuids:
        info = _Memory()
        handle = _handle(library, uuid)
        if handle is None or library.nvmlDeviceGetMemoryInfo(handle, ctypes.byref(info)) != 0:
            return []
        found.append((int(info.free), int(info.total)))
    return found


class Device(NamedTuple):
    """A GPU, or a part of one (MIG)."""

    name: str  # e.g. "NVIDIA A100-SXM4-40GB MIG 1g.5gb"
    bytes: int
    capability: str  # e.g. "8.0"


def devices(uuids: "Sequence[str]") -> list[Device]:
    """The GPUs with these UUIDs, like "GPU-8d62…"; of one that is in parts the parts that this container was given.
    Empty if that cannot be told."""
    if (library := _loaded()) is None:
        return []
    found: list[Device] = []
    for uuid in uuids:  # by number NVML also counts those that are not ours
        gpu = ctypes.c_void_p()
        if library.nvmlDeviceGetHandleByUUID(uuid.encode(), ctypes.byref(gpu)) != 0:
            return []
        parts: list[ctypes.c_void_p] = []
        mode, pending = ctypes.c_uint(), ctypes.c_uint()
        if library.nvmlDeviceGetMigMode(gpu, ctypes.byref(mode), ctypes.byref(pending)) == 0 and mode.value:
            most = _number(library, "nvmlDeviceGetMaxMigDeviceCount", gpu)
            parts = _handles(library, "nvmlDeviceGetMigDeviceHandleByIndex", most, gpu)
            if not parts:
                continue  # none of it is ours
        major, minor = ctypes.c_int(), ctypes.c_int()
        library.nvmlDeviceGetCudaComputeCapability(gpu, ctypes.byref(major), ctypes.byref(minor))
        for handle in parts or [gpu]:
            name, info = ctypes.create_string_buffer(96), _Memory()
            if library.nvmlDeviceGetName(handle, name, 96) != 0:
                return []
            if library.nvmlDeviceGetMemoryInfo(handle, ctypes.byref(info)) != 0:
                return []
            found.append(Device(name.value.decode(), int(info.total), f"{major.value}.{minor.value}"))
    return found


def _number(library: Any, function: str, *arguments: Any) -> int:
    value = ctypes.c_uint()
    return value.value if getattr(library, function)(*arguments, ctypes.byref(value)) == 0 else 0


def _handles(library: Any, function: str, count: int, *arguments: Any) -> list[ctypes.c_void_p]:
    """Those of `count` that are there: parts of a GPU have numbers with gaps."""
    found = []
    for number in range(count):
        handle = ctypes.c_void_p()
        if getattr(library, function)(*arguments, ctypes.c_uint(number), ctypes.byref(handle)) == 0:
            found.append(handle)
    return found


def _handle(library: Any, uuid: str) -> ctypes.c_void_p | None:
    text = "-".join((uuid[:8], uuid[8:12], uuid[12:16], uuid[16:20], uuid[20:]))
    for kind in ("GPU", "MIG"):
        handle = ctypes.c_void_p()
        if library.nvmlDeviceGetHandleByUUID(f"{kind}-{text}".encode(), ctypes.byref(handle)) == 0:
            return handle
    return None
