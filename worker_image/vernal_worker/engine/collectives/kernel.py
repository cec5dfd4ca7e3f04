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

_AT_ONCE = 256 << 10
"""Bytes up to which more than two ranks send all of a tensor to each other: fewer steps, more bytes."""

_STATUS_SUCCESS = 0


def inbox_bytes(ranks: int) -> int:
    """Of one rank's inbox: for each rank two slots a block, then a flag a block."""
    return ranks * (2 * BLOCKS * SLOT + 128 * BLOCKS)


def state_bytes(ranks: int) -> int:
    """Of `State` in exchange.cu: addresses of the inboxes, then every block's turn."""
    return 8 * ranks + 4 * BLOCKS


class _Launcher:
    """One kernel. Its arguments lie in memory of their own and are only overwritten, because a large prompt has two
    launches a layer that no CUDA graph holds. For one thread at a time."""

    def __init__(self, function: Any, rank: int, most: int = SLOT // UNIT) -> None:
        """`most`: units that a block may take at a time."""
        self._most = most
        self._launch = ctypes.CDLL("libcuda.so.1").cuLaunchKernel
        number, pointer = ctypes.c_uint, ctypes.c_void_p
        self._launch.argtypes = [pointer, *[number] * 7, pointer, pointer, pointer]
        self._function = int(function)
        self._x, self._y, self._state = pointer(), pointer(), pointer()
        self._count, self._piece = ctypes.c_longlong(), ctypes.c_int()
        values = [self._x, self._y, self._count, self._piece, self._state, ctypes.c_int(rank)]
        self._values = values
        self._arguments = (pointer * len(values))(*map(ctypes.addressof, values))
        self._address = ctypes.addressof(self._arguments)

    def __call__(self, x: int, y: int, size: int, state: int, stream: int) -> None:
        """Raises: DriverError."""
        count = size // UNIT
        piece = piece_of(count, self._most)
        self._x.value, self._y.value, self._state.value = x, y, state
        self._count.value, self._piece.value = count, piece
        grid = min(BLOCKS, -(-count // piece))
        status = self._launch(self._function, grid, 1, 1, _THREADS, 1, 1, 0, stream, self._address, None)
        if status != _STATUS_SUCCESS:
            raise DriverError("cuLaunchKernel", f"status {status}")


class Kernels:
    """For the current context's GPU.

    `gather` puts the ranks' data into a row, in their order. Its arguments, and those of what `reduce` finds: addresses
    of what goes in and of what comes out, bytes that go in, address of the state, and the stream.
    """

    TYPES = ("float32", "bfloat16", "float16")
    """Of elements, as torch names them."""

    def __init__(self, rank: int, ranks: int) -> None:
        """Raises: DriverError."""
        device = call("cuCtxGetDevice")
        major, minor = (call("cuDeviceGetAttribute", _attribute(name), device) for name in ("MAJOR", "MINOR"))
        module = call("cuModuleLoadData", compiled(f"sm_{major}{minor}", ranks))

        def kernel(name: str, most: int = SLOT // UNIT) -> _Launcher:
            return _Launcher(call("cuModuleGetFunction", module, name.encode()), rank, most)

        self._at_once = {name: kernel(f"reduce_{name}") for name in self.TYPES}
        self._by_shares = {name: kernel(f"shared_reduce_{name}", ranks * SLOT // UNIT) for name in self.TYPES}
        self._always_at_once = ranks == 2  # both ways send the same bytes then
        self.gather = kernel("gather")

    def reduce(self, kind: str, size: int) -> _Launcher:
        """What adds the ranks' tensors of `size` bytes, of elements `kind` (one of `TYPES`)."""
        return (self._at_once if self._always_at_once or size <= _AT_ONCE else self._by_shares)[kind]


def piece_of(count: int, most: int = SLOT // UNIT) -> int:
    """How many units a block takes at a time: small tensors are spread over many blocks, large ones fill slots."""
    spread = -(-count // BLOCKS)
    return min(-(-spread // _THREADS) * _THREADS, most)


def compiled(architecture: str, ranks: int) -> bytes:
    """Machine code for a GPU such as "sm_90". Raises: DriverError: what the compiler says is its message."""
    from cuda.bindings import nvrtc

    def rtc(function: str, *arguments: Any) -> Any:
        code, *values = getattr(nvrtc, function)(*arguments)
        if code != nvrtc.nvrtcResult.NVRTC_SUCCESS:
            raise DriverError(function, str(getattr(code, "name", code)) + _log(nvrtc, program))
        return values[0] if values else None

    program: Any = None
    source = Path(__file__).with_name("exchange.cu").read_bytes()
    program = rtc("nvrtcCreateProgram", source, b"exchange.cu", 0, [], [])
    sizes = {"RANKS": ranks, "BLOCKS": BLOCKS, "THREADS": _THREADS, "SLOT": SLOT}
    options = [f"--gpu-architecture={architecture}", "--std=c++17", *(f"-D{k}={v}" for k, v in sizes.items())]
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
