"""BLAKE3 of GPU memory, computed by the GPU that holds it.

The cores of a node read weights about as fast as they hash them, so hashing there costs a thaw a tenth of its time. The
kernels (`blake3.cu`) are compiled when an image is built (`compile.py`), one file a kind of GPU.
"""

import ctypes
import sys
from pathlib import Path
from typing import Any

from vernal_worker.checkpoint.cuda.driver import DriverError, bindings, call

SOURCE = Path(__file__).with_name("blake3.cu")

CHUNK = 1024
"""Bytes; what is hashed has a multiple of it, and two chunks at least."""

_CV = 32  # bytes of a chaining value, and of a digest
_LEAF_THREADS, _TREE_THREADS = 128, 512


def compiled(directory: Path, architecture: int) -> Path:
    """Where the kernels are for a compute capability such as 90."""
    return directory / f"{SOURCE.stem}.sm_{architecture}.cubin"


class Digester:
    """Digests of up to `pieces` pieces of `piece` bytes on one GPU, asked for by up to `lanes` streams."""

    def __init__(self, device: int, lanes: int, pieces: int, piece: int, directory: Path = SOURCE.parent) -> None:
        """The GPU's context must be current, here and in every call.

        Raises:
            OSError: there are no kernels for this kind of GPU; DriverError.
        """
        code = compiled(directory, _architecture(device)).read_bytes()
        self._count = pieces
        self._scratch = 2 * _CV * (piece // CHUNK)
        self._module = call("cuModuleLoadData", code)
        try:
            self._leaves = call("cuModuleGetFunction", self._module, b"leaves")
            self._tree = call("cuModuleGetFunction", self._module, b"tree")
            self._memory = int(call("cuMemAlloc", pieces * _CV + lanes * self._scratch))
        except DriverError:
            call("cuModuleUnload", self._module)
            raise

    def begin(self, stream: Any, lane: int, number: int, address: int, length: int) -> None:
        """Hash piece `number`, `length` bytes at `address`, once what `stream` has before it is done. Streams that run
        at the same time have different lanes. Raises: DriverError."""
        chunks, rest = divmod(length, CHUNK)
        assert not rest and chunks > 1 and 2 * _CV * chunks <= self._scratch, length
        nodes = self._memory + self._count * _CV + lane * self._scratch
        grid = (chunks + _LEAF_THREADS - 1) // _LEAF_THREADS
        _launch(self._leaves, grid, _LEAF_THREADS, stream, address, chunks, nodes)
        _launch(self._tree, 1, _TREE_THREADS, stream, nodes, chunks, self._memory + number * _CV)

    def found(self) -> list[str]:
        """In hex, when all streams are done; of pieces that were never begun it is nonsense. Raises: DriverError."""
        digests = ctypes.create_string_buffer(self._count * _CV)
        call("cuMemcpyDtoH", ctypes.addressof(digests), self._memory, len(digests))
        return [digests.raw[at : at + _CV].hex() for at in range(0, len(digests), _CV)]

    def close(self) -> None:
        """Raises: DriverError."""
        call("cuMemFree", self._memory)
        call("cuModuleUnload", self._module)


def digester(device: int, lanes: int, pieces: int, piece: int) -> Digester | None:
    """None if the CPU must do it, and then a line in the log says why."""
    try:
        return Digester(device, lanes, pieces, piece)
    except FileNotFoundError as error:
        problem = f"no {error.filename}: run python -m {__package__}.compile when the image is built"
    except (OSError, DriverError) as error:
        problem = str(error)
    print(f"weights are verified by the CPU, which takes longer: {problem}", file=sys.stderr, flush=True)
    return None


def _architecture(device: int) -> int:
    names = bindings().CUdevice_attribute
    major = call("cuDeviceGetAttribute", names.CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR, device)
    minor = call("cuDeviceGetAttribute", names.CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR, device)
    return int(major) * 10 + int(minor)


def _launch(kernel: Any, blocks: int, threads: int, stream: Any, first: int, count: int, last: int) -> None:
    arguments = ((first, count, last), (ctypes.c_void_p, ctypes.c_uint32, ctypes.c_void_p))
    call("cuLaunchKernel", kernel, blocks, 1, 1, threads, 1, 1, 0, stream, arguments, 0)
