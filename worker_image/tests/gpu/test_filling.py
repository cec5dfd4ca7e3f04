"""Weights from files to a GPU by the code of a thaw: from a disk, and from huge pages."""

import os
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from blake3 import blake3
from vernal_worker.checkpoint.cuda import memory, transfer
from vernal_worker.checkpoint.cuda.compile import compile_all
from vernal_worker.checkpoint.cuda.digest import SOURCE
from vernal_worker.checkpoint.cuda.driver import DriverError, call
from vernal_worker.checkpoint.cuda.layout import STORED, Rank, Segment
from vernal_worker.checkpoint.cuda.slots import SIZE, Slots

PIECE = 64 << 20
RANK = Rank(
    file="rank-0", segments=(Segment(STORED, 96 << 20), Segment("kv_cache", 4 << 20), Segment(STORED, 100 << 20))
)
"""Four pieces, the last one short, in one file."""


@pytest.fixture(scope="module", autouse=True)
def kernels() -> None:
    call("cuInit", 0)
    compile_all(SOURCE.parent)


@pytest.fixture
def huge(tmp_path: Path) -> Iterator[Path]:
    """A tmpfs with huge pages."""
    place = tmp_path / "huge"
    place.mkdir()
    subprocess.run(["mount", "-n", "-t", "tmpfs", "-o", "size=512m,huge=always", "vernal-test", place], check=True)
    yield place
    subprocess.run(["umount", "-n", "-l", place], check=True)


@pytest.fixture(params=["disk", "huge pages"])
def directory(request: pytest.FixtureRequest, tmp_path: Path, huge: Path) -> Path:
    return huge if request.param == "huge pages" else tmp_path


def write(directory: Path) -> tuple[bytes, list[str]]:
    """The rank's file; what is in it, and the digests of its pieces."""
    content = os.urandom(RANK.bytes)
    (directory / RANK.files[0]).write_bytes(content)
    return content, [blake3(content[at : at + PIECE]).hexdigest() for at in range(0, len(content), PIECE)]


def fill(directory: Path, digests: list[str]) -> memory.Broker:
    broker = memory.Broker([RANK], directory, PIECE, [digests])
    broker.start(directory / "socket")
    broker.wait()
    return broker


def on_gpu(broker: memory.Broker) -> bytes:
    """What is there now."""
    held = broker._memories[0]
    call("cuCtxSetCurrent", held.context)
    found = bytearray(RANK.bytes)
    call("cuMemcpyDtoH", found, held._base, len(found))
    return bytes(found)


def test_what_is_on_the_gpu_is_what_is_in_the_file(directory: Path) -> None:
    content, digests = write(directory)
    broker = fill(directory, digests)
    assert on_gpu(broker) == content
    broker.close()


def test_slots_that_were_made_before_are_used_again(directory: Path) -> None:
    content, digests = write(directory)
    slots: Slots | None = None
    for _ in range(2):
        broker = memory.Broker([RANK], directory, PIECE, [digests])
        broker.slots = slots = slots or Slots(broker.wanted_slots + 3)
        broker.start(directory / "socket")
        broker.wait()
        assert on_gpu(broker) == content
        broker.close()
    assert slots is not None
    assert sum(slots._locked.values()) == (slots.count - 3) * SIZE, "what is not needed is not page-locked"
    slots.close()


def test_a_flipped_bit_is_found(directory: Path) -> None:
    content, digests = write(directory)
    with (directory / RANK.files[0]).open("r+b") as file:
        file.seek(3 * PIECE + 5)
        file.write(bytes([content[3 * PIECE + 5] ^ 4]))
    with pytest.raises(transfer.DigestError, match=f"{RANK.files[0]} .bytes {3 * PIECE} to"):
        fill(directory, digests)


def test_a_rank_that_can_import_nothing_has_its_weights_copied(directory: Path) -> None:
    """It says so when it has the descriptors, makes memory of its own, and sends descriptors of that."""
    content, digests = write(directory)
    broker = fill(directory, digests)
    call("cuCtxSetCurrent", broker._memories[0].context)
    sizes = {number: segment.size for number, segment in enumerate(RANK.segments) if segment.tag == STORED}
    handles = {number: call("cuMemCreate", size, memory.shareable(0), 0) for number, size in sizes.items()}
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as connection:
        connection.settimeout(60)
        connection.connect(str(directory / "socket"))

        def ask(question: object, fds: list[int]) -> memory.Handover:
            socket.send_fds(connection, [msgspec.json.encode(question)], fds)
            return msgspec.json.decode(connection.recv(memory.MESSAGE), type=memory.Handover)

        assert ask(memory.Fetch(0, copies=False), []).made == (True, True, True)
        _, fds, _, _ = socket.recv_fds(connection, memory.MESSAGE, memory.FDS_A_MESSAGE)
        assert len(fds) == 3
        assert ask(memory.Fetch(0, copies=True), []) == memory.Handover()
        own = [memory.export(handle) for handle in handles.values()]
        assert ask(memory.Copy(tuple(handles)), own) == memory.Handover()
    for fd in (*fds, *own):
        os.close(fd)
    found = bytearray()
    for number, handle in handles.items():
        address = int(call("cuMemAddressReserve", sizes[number], 0, 0, 0))
        call("cuMemMap", address, sizes[number], 0, handle, 0)
        memory.set_access(0, address, sizes[number])
        part = bytearray(sizes[number])
        call("cuMemcpyDtoH", part, address, len(part))
        found += part
        call("cuMemUnmap", address, sizes[number])
        call("cuMemAddressFree", address, sizes[number])
        call("cuMemRelease", handle)
    assert found == content
    broker.close()


def test_a_file_that_became_shorter_is_an_error(directory: Path) -> None:
    _, digests = write(directory)
    os.truncate(directory / RANK.files[0], RANK.bytes - 4096)
    with pytest.raises((OSError, DriverError)):
        fill(directory, digests)
