"""BLAKE3 of GPU memory, computed by the GPU that holds it.

The cores of a node read weights, or KV blocks, about as fast as they hash them. The kernels (`blake3.cu`) are compiled
when an image is built (`compile.py`), one file a kind of GPU.
"""

import ctypes
import sys
from pathlib import Path
from typing import Any

from vernal_worker.checkpoint.cuda.driver import DriverError, bindings, call

SOURCE = Path(__file__).with_name("blake3.cu")

CHUNK = 1024
"""Bytes; what is hashed has a multiple of it, and two chunks at least."""

DIGEST_BYTES = 32
_CV = DIGEST_BYTES  # of a chaining value
_LEAF_THREADS, _TREE_THREADS = 128, 512
_ADDRESS, _COUNT = ctypes.c_void_p, ctypes.c_uint32


def compiled(directory: Path, architecture: int) -> Path:
    """Where the kernels are for a compute capability such as 90."""
    return directory / f"{SOURCE.stem}.sm_{architecture}.cubin"


class Kernels:
    """The GPU's code."""

    def __init__(self, device: int, directory: Path = SOURCE.parent) -> None:
        """The GPU's context must be current, here and in every call.

        Raises:
            OSError: there are no kernels for this kind of GPU; DriverError.
        """
        code = compiled(directory, _architecture(device)).read_bytes()
        self._module = call("cuModuleLoadData", code)
        try:
            self._leaves = call("cuModuleGetFunction", self._module, b"leaves")
            self._tree = call("cuModuleGetFunction", self._module, b"tree")
        except DriverError:
            self.close()
            raise

    def hash(self, stream: Any, address: int, pieces: int, length: int, scratch: int, digests: int) -> None:
        """Hash `pieces` of `length` bytes each, one after the other at `address`, once what `stream` has before it is
        done. Their digests go to `digests`, one after the other.

        Args:
            scratch: an address with room for `scratch_bytes(length)` for each.

        Raises: DriverError.
        """
        chunks, rest = divmod(length, CHUNK)
        assert not rest and chunks > 1, length
        grid = (pieces * chunks + _LEAF_THREADS - 1) // _LEAF_THREADS
        leaves = ((address, pieces, chunks, scratch), (_ADDRESS, _COUNT, _COUNT, _ADDRESS))
        call("cuLaunchKernel", self._leaves, grid, 1, 1, _LEAF_THREADS, 1, 1, 0, stream, leaves, 0)
        tree = ((scratch, chunks, digests), (_ADDRESS, _COUNT, _ADDRESS))
        call("cuLaunchKernel", self._tree, pieces, 1, 1, _TREE_THREADS, 1, 1, 0, stream, tree, 0)

    def close(self) -> None:
        """Raises: DriverError."""
        call("cuModuleUnload", self._module)


def hashable(length: int) -> bool:
    """Whether the kernels can hash so many bytes."""
    return length % CHUNK == 0 and length > CHUNK


def scratch_bytes(length: int) -> int:
    """What the kernels need to hash so many bytes."""
    return 2 * _CV * (length // CHUNK)


class Digester:
    """Digests of up to `pieces` pieces of `piece` bytes on one GPU."""

    def __init__(self, device: int, pieces: int, piece: int, directory: Path = SOURCE.parent) -> None:
        """The GPU's context must be current, here and in every call.

        Raises:
            OSError: there are no kernels for this kind of GPU; DriverError.
        """
        self._count = pieces
        self._scratch = scratch_bytes(piece)
        self._kernels = Kernels(device, directory)
        try:
            self._memory = int(call("cuMemAlloc", pieces * _CV + self._scratch))
        except DriverError:
            self._kernels.close()
            raise

    def begin(self, stream: Any, number: int, address: int, length: int) -> None:
        """Hash piece `number`, `length` bytes at `address`, once what `stream` has before it is done: always the same
        stream. Raises: DriverError."""
        assert scratch_bytes(length) <= self._scratch, length
        digest = self._memory + number * _CV
        self._kernels.hash(stream, address, 1, length, self._memory + self._count * _CV, digest)

    def found(self) -> list[str]:
        """In hex, when the stream is done; of pieces that were never begun it is nonsense. Raises: DriverError."""
        digests = ctypes.create_string_buffer(self._count * _CV)
        call("cuMemcpyDtoH", ctypes.addressof(digests), self._memory, len(digests))
        return [digests.raw[at : at + _CV].hex() for at in range(0, len(digests), _CV)]

    def close(self) -> None:
        """Raises: DriverError."""
        call("cuMemFree", self._memory)
        self._kernels.close()


def digester(device: int, pieces: int, piece: int) -> Digester | None:
    """None if the CPU must do it, and then a line in the log says why."""
    try:
        return Digester(device, pieces, piece)
    except (OSError, DriverError) as error:
        why = problem(error)
    print(f"weights are verified by the CPU, which takes longer: {why}", file=sys.stderr, flush=True)
    return None


def problem(error: Exception) -> str:
    """Why there are no kernels, and what to do about it."""
    if isinstance(error, FileNotFoundError):
        return f"no {error.filename}: run python -m {__package__}.compile when the image is built"
    return str(error)


def _architecture(device: int) -> int:
    names = bindings().CUdevice_attribute
    major = call("cuDeviceGetAttribute", names.CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR, device)
    minor = call("cuDeviceGetAttribute", names.CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR, device)
    return int(major) * 10 + int(minor)
