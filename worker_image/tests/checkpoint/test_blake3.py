"""The GPU's BLAKE3, compiled for this CPU: the same source, thread by thread."""

import ctypes
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from blake3 import blake3
from hypothesis import given, settings
from hypothesis import strategies as st
from vernal_worker.checkpoint.cuda.digest import CHUNK, DIGEST_BYTES, SOURCE, scratch_bytes

# What CUDA adds to C. One thread is enough for `tree`, whose threads share a level and wait for one another after it.
PROGRAM = """
#define __device__
#define __forceinline__ inline
#define __global__
struct uint4 { unsigned x, y, z, w; };
static struct { unsigned x; } blockIdx, threadIdx, blockDim;
static void __syncthreads() {}
#include "%s"
extern "C" void digests(const void *data, unsigned pieces, unsigned chunks, void *nodes, void *found) {
    blockDim.x = 128;
    for (blockIdx.x = 0; blockIdx.x * blockDim.x < pieces * chunks; blockIdx.x++)
        for (threadIdx.x = 0; threadIdx.x < blockDim.x; threadIdx.x++)
            leaves((const uint4 *)data, pieces, chunks, (uint4 *)nodes);
    blockDim.x = 1; threadIdx.x = 0;
    for (blockIdx.x = 0; blockIdx.x < pieces; blockIdx.x++) tree((u32 *)nodes, chunks, (u32 *)found);
}
"""


Digests = Callable[[bytes, int], bytes]
"""Of so many pieces of equal length, one after the other."""


@pytest.fixture(scope="module")
def digests(tmp_path_factory: pytest.TempPathFactory) -> Digests:
    # Not installed here: engines of other tests may have the libraries mapped that it would replace.
    assert shutil.which("g++"), "no g++, with which the GPU's kernels are tested on the CPU: run make tools"
    directory = tmp_path_factory.mktemp("blake3")
    (directory / "cpu.cpp").write_text(PROGRAM % SOURCE)
    library: Path = directory / "cpu.so"
    command = ["g++", "-O2", "-Wall", "-Wno-unknown-pragmas", "-Werror", "-shared", "-fPIC"]
    subprocess.run([*command, "-o", library, directory / "cpu.cpp"], check=True)
    code = ctypes.CDLL(str(library))

    def function(data: bytes, pieces: int = 1) -> bytes:
        length = len(data) // pieces
        nodes = ctypes.create_string_buffer(pieces * scratch_bytes(length))
        found = ctypes.create_string_buffer(pieces * DIGEST_BYTES)
        code.digests(data, pieces, length // CHUNK, nodes, found)
        return found.raw

    return function


@settings(deadline=None)
@given(chunks=st.integers(2, 300), pieces=st.integers(1, 5), seed=st.binary(min_size=1, max_size=8))
def test_it_is_blake3(digests: Digests, chunks: int, pieces: int, seed: bytes) -> None:
    data = blake3(seed).digest(pieces * chunks * CHUNK)
    each = [data[piece * chunks * CHUNK : (piece + 1) * chunks * CHUNK] for piece in range(pieces)]
    assert digests(data, pieces) == b"".join(blake3(piece).digest() for piece in each)


@pytest.mark.parametrize("mebibytes", [2, 6, 62, 64])
def test_a_piece_as_weights_have_it(digests: Digests, mebibytes: int) -> None:
    data = blake3(b"weights").digest(mebibytes << 20)
    assert digests(data, 1) == blake3(data).digest()
    flipped = bytearray(data)
    flipped[len(data) // 3] ^= 16
    assert digests(bytes(flipped), 1) != blake3(data).digest()
