"""The GPU's BLAKE3 on a GPU. The test beside it in `checkpoint/` says that the algorithm is right; this one, that it is
compiled, launched and read back as it must be, and how fast it is."""

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from blake3 import blake3
from vernal_worker.checkpoint.cuda.bus import stream
from vernal_worker.checkpoint.cuda.compile import compile_all
from vernal_worker.checkpoint.cuda.digest import Digester
from vernal_worker.checkpoint.cuda.driver import call

PIECE = 64 << 20


@pytest.fixture
def memory() -> Iterator[int]:
    """64 pieces of GPU memory, in a context of the first GPU."""
    call("cuInit", 0)
    device = call("cuDeviceGet", 0)
    call("cuCtxSetCurrent", call("cuDevicePrimaryCtxRetain", device))
    address = int(call("cuMemAlloc", 64 * PIECE))
    yield address
    call("cuMemFree", address)
    call("cuDevicePrimaryCtxRelease", device)


def test_digests_and_their_speed(memory: int, tmp_path: Path) -> None:
    compile_all(tmp_path)
    lengths = [PIECE] * 61 + [2 << 20, 6 << 20, 2048]
    for number, length in enumerate(lengths):
        data = blake3(b"%d" % number).digest(length)
        call("cuMemcpyHtoD", memory + number * PIECE, data, length)
    digester = Digester(0, len(lengths), PIECE, tmp_path)
    with stream() as queue:
        for turn in range(3):  # the first one loads the code
            began = time.monotonic()
            for number, length in enumerate(lengths):
                digester.begin(queue, number, memory + number * PIECE, length)
            call("cuCtxSynchronize")
            seconds = time.monotonic() - began
            print(f"turn {turn}: {sum(lengths) / seconds / 1e9:.0f} GB/s")
    expected = [blake3(blake3(b"%d" % number).digest(length)).hexdigest() for number, length in enumerate(lengths)]
    assert digester.found() == expected
    digester.close()
