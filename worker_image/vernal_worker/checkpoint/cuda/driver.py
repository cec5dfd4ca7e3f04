"""Calls of the CUDA driver API (https://docs.nvidia.com/cuda/cuda-driver-api) through cuda-bindings."""

import ctypes
from functools import cache
from typing import Any


class DriverError(Exception):
    """A call did not succeed."""

    def __init__(self, function: str, code: str) -> None:
        super().__init__(f"{function}: {code}")
        self.function = function
        self.code = code
        """Like "CUDA_ERROR_OUT_OF_MEMORY"."""

    @property
    def out_of_memory(self) -> bool:
        return self.code == "CUDA_ERROR_OUT_OF_MEMORY"


def bindings() -> Any:
    """The module `cuda.bindings.driver`: loaded when first needed, because it takes 0.1 s and a GPU host."""
    from cuda.bindings import driver

    return driver


def call(function: str, *arguments: Any) -> Any:
    """Call a function; returns its result without the status: None, one value, or a tuple.

    Raises:
        DriverError: the status was not CUDA_SUCCESS.
    """
    driver = bindings()
    code, *values = getattr(driver, function)(*arguments)
    if code != driver.CUresult.CUDA_SUCCESS:
        raise DriverError(function, str(getattr(code, "name", code)))
    return None if not values else values[0] if len(values) == 1 else tuple(values)


# What follows only puts work into a stream, a thousand times a second beside many threads. It takes less time than to
# give the interpreter away for it and to get it back, as cuda-bindings and CDLL do.


@cache
def _held() -> ctypes.PyDLL:
    """The driver, for calls during which a thread keeps the interpreter."""
    library = ctypes.PyDLL("libcuda.so.1")
    handle, size = ctypes.c_void_p, ctypes.c_size_t
    library.cuMemcpyHtoDAsync_v2.argtypes = (ctypes.c_uint64, handle, size, handle)
    return library


def copy_to_gpu(address: int, memory: int, size: int, stream: int) -> None:
    """Enqueue a copy of `size` bytes of page-locked memory. Raises: DriverError."""
    if code := _held().cuMemcpyHtoDAsync_v2(address, memory, size, stream):
        raise DriverError("cuMemcpyHtoDAsync", str(bindings().CUresult(code).name))
