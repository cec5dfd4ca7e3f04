"""Memory of ranks that all of them can write: on the GPUs over NVLink (`Remote`), or pinned in the host (`Hosted`)."""

import ctypes
import mmap
import os
from typing import Any, Protocol

from vernal_worker.checkpoint.cuda import numbers
from vernal_worker.checkpoint.cuda.driver import DriverError, call
from vernal_worker.checkpoint.cuda.memory import export, set_access, shareable, take

GRANULARITY = 2 << 20


class Carrier(Protocol):
    """This rank's inbox, which starts as zeros, and the other ranks'."""

    mine: int
    """Address on the GPU of this rank's inbox."""

    def offer(self) -> int:
        """A descriptor of this rank's inbox for other ranks; the caller closes it. Raises: DriverError."""

    def accept(self, fd: int, number: int | None) -> int:
        """The address on the GPU of an inbox that another rank offered, on the GPU that engines know by `number` (see
        `numbers`). Raises: DriverError, OSError."""

    def close(self) -> None:
        """Let go of all: afterwards nothing is left that could not be frozen. Raises: DriverError."""


class Remote:
    """GPU memory, written by the other GPUs."""

    def __init__(self, device: int, size: int) -> None:
        """Raises: DriverError."""
        self._device, self._size = device, _rounded(size)
        self._mapped: list[tuple[int, Any]] = []
        self.mine = self._map(call("cuMemCreate", self._size, shareable(device), 0))
        call("cuMemsetD8", self.mine, 0, self._size)
        call("cuCtxSynchronize")

    def offer(self) -> int:
        return export(self._mapped[0][1])

    def accept(self, fd: int, number: int | None) -> int:
        with numbers.taken_as(number):
            handle = take(fd)
        return self._map(handle)

    def close(self) -> None:
        while self._mapped:
            address, handle = self._mapped.pop()
            call("cuMemUnmap", address, self._size)
            call("cuMemAddressFree", address, self._size)
            call("cuMemRelease", handle)

    def _map(self, handle: Any) -> int:
        address = int(call("cuMemAddressReserve", self._size, 0, 0, 0))
        try:
            call("cuMemMap", address, self._size, 0, handle, 0)
        except DriverError:
            call("cuMemAddressFree", address, self._size)
            call("cuMemRelease", handle)
            raise
        self._mapped.append((address, handle))
        set_access(self._device, address, self._size)
        return address


class Hosted:
    """Pinned memory of the host, which works with any GPUs."""

    def __init__(self, size: int) -> None:
        """Raises: DriverError, OSError."""
        self._size = _rounded(size)
        self._areas: list[tuple[mmap.mmap, int]] = []
        self._fd = os.memfd_create("vernal-inbox", os.MFD_CLOEXEC)
        os.ftruncate(self._fd, self._size)
        self.mine = self._register(self._fd)

    def offer(self) -> int:
        return os.dup(self._fd)

    def accept(self, fd: int, number: int | None) -> int:
        return self._register(fd)

    def close(self) -> None:
        while self._areas:
            area, address = self._areas.pop()
            call("cuMemHostUnregister", address)
            area.close()
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _register(self, fd: int) -> int:
        area = mmap.mmap(fd, self._size)
        address = ctypes.addressof(ctypes.c_char.from_buffer(area))
        call("cuMemHostRegister", address, self._size, 2)  # CU_MEMHOSTREGISTER_DEVICEMAP
        self._areas.append((area, address))
        return int(call("cuMemHostGetDevicePointer", address, 0))


def _rounded(size: int) -> int:
    return -(-size // GRANULARITY) * GRANULARITY
