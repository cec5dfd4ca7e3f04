"""Calls of the CUDA driver API (https://docs.nvidia.com/cuda/cuda-driver-api) through cuda-bindings."""

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
