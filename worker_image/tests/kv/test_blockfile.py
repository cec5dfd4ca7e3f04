"""A block file is believed only if every bit is the one that was written, under the very label that is asked for."""

import dataclasses
import os
import random
from pathlib import Path

import pytest
from blake3 import blake3
from hypothesis import given, settings
from hypothesis import strategies as st
from vernal_worker.kv import blockfile
from vernal_worker.kv.blockfile import HEADER_BYTES, BlockError, Failure, Files, Label

PAYLOAD = random.Random(1).randbytes(3000)
LABEL = Label(fingerprint=b"f" * 32, key=b"k" * 32, tokens=16, payload_bytes=len(PAYLOAD))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "block.kv"
    blockfile.write(path, LABEL, memoryview(PAYLOAD), Files())
    return path


def read(path: Path, label: Label = LABEL) -> bytes:
    into = bytearray(label.payload_bytes)
    blockfile.read(path, label, memoryview(into), Files())
    return bytes(into)


def failure(path: Path, label: Label = LABEL) -> Failure:
    with pytest.raises(BlockError) as caught:
        read(path, label)
    return caught.value.failure


@given(payload=st.binary(max_size=5000), key=st.binary(min_size=32, max_size=32), tokens=st.integers(1, 2**32 - 1))
@settings(max_examples=50, deadline=None)
def test_what_is_written_is_read(
    tmp_path_factory: pytest.TempPathFactory, payload: bytes, key: bytes, tokens: int
) -> None:
    label = Label(b"p" * 32, key, tokens, len(payload))
    path = tmp_path_factory.mktemp("block") / "b.kv"
    blockfile.write(path, label, memoryview(payload), Files())
    assert read(path, label) == payload
    assert path.stat().st_mode & 0o777 == 0o600, "it holds what users wrote"


def test_a_flipped_bit_is_found_wherever_it_is(path: Path) -> None:
    good = path.read_bytes()
    for position in range(len(good)):
        bad = bytearray(good)
        bad[position] ^= 1 << (position % 8)
        path.write_bytes(bad)
        found = failure(path)
        assert found in (Failure.CORRUPT, Failure.FORMAT, Failure.SWAPPED)
        assert position < HEADER_BYTES or found is Failure.CORRUPT


def test_a_payload_that_somebody_else_verifies_has_the_digest_that_is_returned(path: Path) -> None:
    """The header is verified here whoever does the rest."""
    good = path.read_bytes()
    for position in range(HEADER_BYTES + 64):
        bad = bytearray(good)
        bad[position] ^= 1 << (position % 8)
        path.write_bytes(bad)
        into = bytearray(len(PAYLOAD))
        if position < HEADER_BYTES:
            with pytest.raises(BlockError):
                blockfile.read(path, LABEL, memoryview(into), Files(), verify=False)
        else:
            digest = blockfile.read(path, LABEL, memoryview(into), Files(), verify=False)
            assert digest == blake3(PAYLOAD).digest() != blake3(into).digest()


@pytest.mark.parametrize("length", [0, 1, HEADER_BYTES - 1, HEADER_BYTES, HEADER_BYTES + 100, HEADER_BYTES + 2999])
def test_a_short_file_is_refused(path: Path, length: int) -> None:
    os.truncate(path, length)
    assert failure(path) is Failure.SIZE


def test_a_long_file_is_refused(path: Path) -> None:
    with path.open("ab") as file:
        file.write(b"x")
    assert failure(path) is Failure.SIZE


@pytest.mark.parametrize(
    "change", [{"key": b"K" * 32}, {"fingerprint": b"F" * 32}, {"tokens": 17}], ids=["prefix", "model", "block size"]
)
def test_another_block_in_its_place_is_refused(path: Path, change: dict[str, object]) -> None:
    blockfile.write(path, dataclasses.replace(LABEL, **change), memoryview(PAYLOAD), Files())  # type: ignore[arg-type]
    assert failure(path) is Failure.SWAPPED


def test_the_payload_of_another_block_under_the_right_header_is_refused(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:HEADER_BYTES] + random.Random(2).randbytes(len(PAYLOAD)))
    assert failure(path) is Failure.CORRUPT


def test_something_else_is_refused(path: Path) -> None:
    path.write_bytes(bytes(HEADER_BYTES + len(PAYLOAD)))
    assert failure(path) is Failure.FORMAT


def test_what_is_not_a_file_is_refused(tmp_path: Path, path: Path) -> None:
    assert failure(tmp_path / "absent.kv") is Failure.MISSING
    (tmp_path / "directory.kv").mkdir()
    assert failure(tmp_path / "directory.kv") in (Failure.UNREADABLE, Failure.SIZE)
    (tmp_path / "link.kv").symlink_to(path)
    assert failure(tmp_path / "link.kv") is Failure.UNREADABLE


def test_what_holds_a_reader_up_is_refused_at_once(tmp_path: Path) -> None:
    """Nobody ever writes to it: a thread that waited for that would be lost."""
    os.mkfifo(tmp_path / "fifo.kv")
    assert failure(tmp_path / "fifo.kv") in (Failure.UNREADABLE, Failure.SIZE)


class _Dies(BaseException):
    """The process is gone: no clean-up of ours runs."""


class _DyingFiles(Files):
    def __init__(self, after: int) -> None:
        self._left = after

    def write(self, path: Path, header: bytes, payload: memoryview) -> None:
        whole = header + bytes(payload)
        path.write_bytes(whole[: self._left])
        raise _Dies


@pytest.mark.parametrize("after", [0, 5, HEADER_BYTES, HEADER_BYTES + 7, HEADER_BYTES + len(PAYLOAD)])
def test_a_writer_that_stops_half_way_leaves_nothing_to_be_read(tmp_path: Path, after: int) -> None:
    path = tmp_path / "block.kv"
    with pytest.raises(_Dies):
        blockfile.write(path, LABEL, memoryview(PAYLOAD), _DyingFiles(after))
    assert failure(path) is Failure.MISSING


def test_rewriting_replaces_in_one_step(path: Path) -> None:
    with path.open("rb") as reader:
        blockfile.write(path, LABEL, memoryview(PAYLOAD), Files())
        assert reader.read() == path.read_bytes(), "a reader keeps the file that it opened"
    assert [entry.name for entry in path.parent.iterdir()] == ["block.kv"]
