"""GPU memory that the CUDA helper made and filled, mapped where this process had its own.

vLLM's `wake_up` makes each allocation anew with `cumem.create_and_map`; between `begin` and `end` that function takes
the helper's memory instead, so that everything else about waking up stays vLLM's.
"""

import ctypes
import os
import socket
from collections.abc import Callable
from typing import Any

import msgspec

from vernal_worker.checkpoint.cuda.driver import bindings, call
from vernal_worker.checkpoint.cuda.memory import FDS_A_MESSAGE, Handover, set_access
from vernal_worker.engine.weights.save import allocations

_TIMEOUT = 120.0
_Allocation = tuple[int, int, int, int]  # device, size, address, where the allocator keeps the handle
_originals: list[Callable[[_Allocation], None]] = []


def begin(path: str, rank: int) -> None:
    """Fetch the memory of `rank` at the helper's socket, for the `wake_up` that follows.

    Raises:
        RuntimeError: the helper has it not, or it does not fit; OSError; DriverError.
    """
    from vllm.device_allocator import cumem

    handover, fds = _fetch(path, rank)
    if handover.problem is not None:
        raise RuntimeError(handover.problem)
    every = allocations()
    if len(every) != len(handover.made):
        raise RuntimeError(f"{len(handover.made)} segments were stored, this process has {len(every)}")
    kind = bindings().CUmemAllocationHandleType.CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR
    left = iter(fds)
    waiting: dict[int, Any] = {}
    for (address, _, _), made in zip(every, handover.made, strict=True):
        if made:
            fd = next(left)
            waiting[address] = call("cuMemImportFromShareableHandle", fd, kind)
            os.close(fd)
    end()  # if an earlier wake_up never came that far
    _originals.append(original := cumem.create_and_map)

    def create_and_map(allocation: _Allocation) -> None:
        device, size, address, pointer = allocation
        handle = waiting.pop(address, None)
        if handle is None:
            original(allocation)
            return
        call("cuMemMap", address, size, 0, handle, 0)
        set_access(device, address, size)
        ctypes.c_uint64.from_address(pointer).value = int(handle)  # where the allocator finds it to release it

    cumem.create_and_map = create_and_map


def end() -> None:
    """From now on allocations are made as ever."""
    if _originals:
        from vllm.device_allocator import cumem

        cumem.create_and_map = _originals.pop()


def _fetch(path: str, rank: int) -> tuple[Handover, list[int]]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(_TIMEOUT)
        connection.connect(path)
        connection.sendall(b"%d\n" % rank)
        data, fds = b"", list[int]()
        handover: Handover | None = None
        while handover is None or len(fds) < sum(handover.made):
            part, received, _, _ = socket.recv_fds(connection, 1 << 16, FDS_A_MESSAGE)
            fds += received
            data += part
            if not part:
                raise RuntimeError("the helper ended the connection early")
            if handover is None and b"\n" in data:
                handover = msgspec.json.decode(data.partition(b"\n")[0], type=Handover)
        return handover, fds
