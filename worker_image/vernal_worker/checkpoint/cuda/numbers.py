"""Which GPU the driver takes memory of another process to be on, in a process that was frozen.

When a process imports memory, `libcuda` asks the kernel for the number of the GPU where that is (`deviceInstance`) and
looks for it among the GPUs that the process saw when it called `cuInit`. A thaw on other GPUs (`gpuPairs`) leaves the
numbers in that list as they were, though everything else there has moved: import is refused (driver 580:
CUDA_ERROR_INVALID_DEVICE) or, where the number is another GPU's by now, goes wrong. So the answer to that one question
is translated, on its way from the kernel, into the number that this process knows the GPU by.

The question: `NV0000_CTRL_CMD_OS_UNIX_GET_EXPORT_OBJECT_INFO`, a control call (`NVOS54_PARAMETERS`) of the kernel
module's, https://github.com/NVIDIA/open-gpu-kernel-modules, src/common/sdk/nvidia/inc: ctrl/ctrl0000/ctrl0000unix.h,
nvos.h. Where a driver asks in another way, nothing is translated, and it refuses as before.
"""

import ctypes
import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

from vernal_worker.checkpoint.cuda.driver import DriverError, call
from vernal_worker.checkpoint.cuda.interpose import Interposer
from vernal_worker.checkpoint.cuda.memory import export, shareable, take

_CONTROL = 0xC020462A
"""Request of ioctl(2): NV_ESC_RM_CONTROL of magic "F", 32 bytes both ways."""
_INFO = 0x3D08
_OK = 0
_SIZE = 2 << 20  # of memory that is made only to ask where it is

_IOCTL = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_int, ctypes.c_ulong, ctypes.c_void_p, use_errno=True)


class Control(ctypes.Structure):
    """`NVOS54_PARAMETERS`."""

    _fields_ = (
        ("client", ctypes.c_uint32),
        ("object", ctypes.c_uint32),
        ("command", ctypes.c_uint32),
        ("flags", ctypes.c_uint32),
        ("parameters", ctypes.c_uint64),
        ("size", ctypes.c_uint32),
        ("status", ctypes.c_uint32),
    )


class Info(ctypes.Structure):
    """`NV0000_CTRL_OS_UNIX_GET_EXPORT_OBJECT_INFO_PARAMS`."""

    _fields_ = (
        ("fd", ctypes.c_int32),
        ("device", ctypes.c_uint32),
        ("instance", ctypes.c_uint32),
        ("most", ctypes.c_uint16),
        ("metadata", ctypes.c_uint8 * 64),
    )


def info(request: int, argument: int) -> Info | None:
    """What the kernel has answered at `argument`, if `request` was that question and it could say."""
    if request != _CONTROL or not argument:
        return None
    control = Control.from_address(argument)
    if control.command != _INFO or control.size != ctypes.sizeof(Info) or control.status != _OK:
        return None
    return Info.from_address(control.parameters) if control.parameters else None


class _Asked:
    """The one place in this process where `libcuda`'s question passes by."""

    def __init__(self) -> None:
        self._interposer = Interposer("libcuda.so.1", "ioctl")
        self._real = _IOCTL(_address(ctypes.CDLL(None).ioctl))
        self._function = _IOCTL(self._ioctl)
        self._as: int | None = None
        self.seen: int | None = None

    @contextmanager
    def taken_as(self, number: int | None) -> Iterator[None]:
        self._as, self.seen = number, None
        with self._interposer.by(_address(self._function)):
            yield

    def _ioctl(self, fd: int, request: int, argument: int | None) -> int:
        code: int = self._real(fd, request, argument)
        if code == 0 and (answer := info(request, argument or 0)) is not None:
            self.seen = answer.device
            if self._as is not None:
                answer.device = self._as
        return code


def _address(function: Any) -> int:
    address = ctypes.cast(function, ctypes.c_void_p).value
    assert address is not None
    return address


_asked = cache(_Asked)
_own: dict[int, int | None] = {}
"""By device: lives on in the frozen process, as the driver's own list does."""


def own(device: int) -> int | None:
    """The number by which this process knows one of its GPUs; None if it cannot be found out. Must be asked for the
    first time before the process is frozen, with a context of that GPU current."""
    if device not in _own:
        try:
            _own[device] = _ask(device)
        except (DriverError, LookupError, OSError):
            _own[device] = None
    return _own[device]


def _ask(device: int) -> int:
    handle = call("cuMemCreate", _SIZE, shareable(device), 0)
    try:
        fd = export(handle)
        try:
            with _asked().taken_as(None):
                call("cuMemRelease", take(fd))
        finally:
            os.close(fd)
    finally:
        call("cuMemRelease", handle)
    if (number := _asked().seen) is None:
        raise LookupError("the driver did not ask where memory is")
    return number


@contextmanager
def taken_as(number: int | None) -> Iterator[None]:
    """For the block, memory that this process imports is taken to be on the GPU that it knows by `number`; None: on
    whichever the driver thinks. Raises: OSError."""
    if number is None:
        yield
        return
    with _asked().taken_as(number):
        yield
