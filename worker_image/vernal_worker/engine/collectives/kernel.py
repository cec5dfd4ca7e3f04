"""The kernels of `exchange.cu`: compiled for the GPU that is here, launched on a stream."""

import ctypes
from pathlib import Path
from typing import Any

from vernal_worker.checkpoint.cuda.driver import DriverError, bindings, call

BLOCKS = 64
_THREADS = 512
SLOT = 64 << 10
UNIT = 16
"""Bytes: sizes and addresses must be multiples of it."""

INBOX = 2 * BLOCKS * SLOT + 128 * BLOCKS
"""Bytes of one rank's inbox: two slots a block, then a flag a block."""

STATE = 64 + 4 * BLOCKS
"""Bytes of `State` in exchange.cu: addresses of the two inboxes, then every block's turn."""

_STATUS_SUCCESS = 0


class _Launcher:
    """One kernel. Its arguments lie in memory of their own and are only overwritten, because a large prompt has two
    launches a layer that no CUDA graph holds. For one thread at a time."""

    def __init__(self, function: Any, more: tuple[int, ...] = ()) -> None:
        self._launch = ctypes.CDLL("libcuda.so.1").cuLaunchKernel
        number, pointer = ctypes.c_uint, ctypes.c_void_p
        self._launch.argtypes = [pointer, *[number] * 7, pointer, pointer, pointer]
        self._function = int(function)
        self._x, self._y, self._state = pointer(), pointer(), pointer()
        self._count, self._piece = ctypes.c_longlong(), ctypes.c_int()
        self._more = [ctypes.c_int(value) for value in more]
        values = [self._x, self._y, self._count, self._piece, self._state, *self._more]
        self._arguments = (pointer * len(values))(*map(ctypes.addressof, values))
        self._address = ctypes.addressof(self._arguments)

    def __call__(self, x: int, y: int, size: int, state: int, stream: int) -> None:
        """Raises: DriverError."""
        count = size // UNIT
        piece = piece_of(count)
        self._x.value, self._y.value, self._state.value = x, y, state
        self._count.value, self._piece.value = count, piece
        grid = min(BLOCKS, -(-count // piece))
        status = self._launch(self._function, grid, 1, 1, _THREADS, 1, 1, 0, stream, self._address, None)
        if status != _STATUS_SUCCESS:
            raise DriverError("cuLaunchKernel", f"status {status}")


class Kernels:
    """For the current context's GPU.

    `reduce` has, for each type of elements that can be added, the function that adds this rank's and the other's;
    `gather` puts rank 0's and then rank 1's into a row. Their arguments: addresses of what goes in and of what comes
    out, bytes that go in, address of the state, and the stream.
    """

    TYPES = ("float32", "bfloat16", "float16")
    """Of elements, as torch names them."""

    def __init__(self, rank: int) -> None:
        """Raises: DriverError."""
        module = call("cuModuleLoadData", _compile())

        def kernel(name: str, *more: int) -> _Launcher:
            return _Launcher(call("cuModuleGetFunction", module, name.encode()), more)

        self.reduce = {name: kernel(f"reduce_{name}") for name in self.TYPES}
        self.gather = kernel("gather", rank)


def piece_of(count: int) -> int:
    """How many units a block takes at a time: small tensors are spread over many blocks, large ones fill slots."""
    spread = -(-count // BLOCKS)
    return min(-(-spread // _THREADS) * _THREADS, SLOT // UNIT)


def _compile() -> bytes:
    """Machine code for the current context's GPU. Raises: DriverError: what the compiler says is its message."""
    from cuda.bindings import nvrtc

    def rtc(function: str, *arguments: Any) -> Any:
        code, *values = getattr(nvrtc, function)(*arguments)
        if code != nvrtc.nvrtcResult.NVRTC_SUCCESS:
            raise DriverError(function, str(getattr(code, "name", code)) + _log(nvrtc, program))
        return values[0] if values else None

    program: Any = None
    source = Path(__file__).with_name("exchange.cu").read_bytes()
    program = rtc("nvrtcCreateProgram", source, b"exchange.cu", 0, [], [])
    device = call("cuCtxGetDevice")
    major, minor = (call("cuDeviceGetAttribute", _attribute(name), device) for name in ("MAJOR", "MINOR"))
    sizes = {"BLOCKS": BLOCKS, "THREADS": _THREADS, "SLOT": SLOT}
    options = [f"--gpu-architecture=sm_{major}{minor}", "--std=c++17", *(f"-D{k}={v}" for k, v in sizes.items())]
    rtc("nvrtcCompileProgram", program, len(options), [option.encode() for option in options])
    code = b" " * int(rtc("nvrtcGetCUBINSize", program))
    rtc("nvrtcGetCUBIN", program, code)
    return code


def _attribute(name: str) -> Any:
    return getattr(bindings().CUdevice_attribute, f"CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_{name}")


def _log(nvrtc: Any, program: Any) -> str:
    if program is None:
        return ""
    _, size = nvrtc.nvrtcGetProgramLogSize(program)
    log = b" " * size
    nvrtc.nvrtcGetProgramLog(program, log)
    return "\n" + str(log.decode(errors="replace"))
