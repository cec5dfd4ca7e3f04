"""What is verified after it went to the GPU; the way there is tested on one (`tests/gpu`)."""

import os
import threading
from pathlib import Path

import pytest
from blake3 import blake3
from thaw_worker.checkpoint.cuda.layout import ranges
from thaw_worker.checkpoint.cuda.transfer import DigestError, Source, verify

PIECE = 1 << 20


def test_verify_finds_a_flipped_bit_in_the_pieces_that_it_is_given(tmp_path: Path) -> None:
    data = bytearray(os.urandom(5 * PIECE + 4096))
    pieces = ranges(len(data), PIECE)
    digests = [blake3(data[offset : offset + length]).hexdigest() for offset, length in pieces]
    file = tmp_path / "weights"
    data[3 * PIECE + 17] ^= 4
    file.write_bytes(data)
    source = Source(file)
    try:
        verify(source, pieces, digests, [0, 1, 2, 4, 5], 2, threading.Event())
        with pytest.raises(DigestError, match=rf"weights \(bytes {3 * PIECE} to {4 * PIECE}\) has other bytes"):
            verify(source, pieces, digests, range(6), 2, threading.Event())
    finally:
        source.close()
