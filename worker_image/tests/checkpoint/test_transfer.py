"""Bytes from files to memory and back, by all the threads of it, where a call of the driver fails or a thread cannot be
started. The driver is stood in for by copies in this process: that bytes arrive on a GPU is in `gpu/test_filling.py`.
"""

import ctypes
import itertools
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from blake3 import blake3
from patience import GUARD_SECONDS
from vernal_worker.checkpoint.cuda import bus, slots, transfer
from vernal_worker.checkpoint.cuda.driver import DriverError
from vernal_worker.checkpoint.cuda.layout import ranges
from vernal_worker.checkpoint.cuda.slots import EACH, SIZE, Slots

PIECE = 2 * SIZE
LENGTH = 7 * SIZE + 4096
THREADS = 3
PIECES = ranges(LENGTH, PIECE)


class Driver:
    """Copies at once. `fail`: the number of the call that does not succeed."""

    def __init__(self, fail: int = -1) -> None:
        self.count, self.fail = itertools.count(), fail
        self.locked: dict[int, int] = {}
        self.wrong: list[str] = []

    def call(self, function: str, *arguments: Any) -> Any:
        undo = function in ("cuStreamDestroy", "cuMemHostUnregister")
        if not undo and next(self.count) == self.fail:
            raise DriverError(function, "CUDA_ERROR_UNKNOWN")
        match function, arguments:
            case "cuMemHostRegister", (address, size, _):
                self.locked[address] = size
            case "cuMemHostUnregister", (address,):
                del self.locked[address]
            case "cuStreamCreate", _:
                return 1
            case "cuMemcpyDtoHAsync", (memory, address, size, _):
                self.copy_to_gpu(memory, address, size, 0, slot=memory)
        return None

    def copy_to_gpu(self, to: int, source: int, size: int, stream: int, slot: int | None = None) -> None:
        if next(self.count) == self.fail:
            raise DriverError("cuMemcpyHtoDAsync", "CUDA_ERROR_UNKNOWN")
        at = source if slot is None else slot
        if not any(begin <= at < begin + count for begin, count in list(self.locked.items())):
            self.wrong.append("a copy of memory that is not page-locked")
        ctypes.memmove(to, source, size)


@pytest.fixture
def use(monkeypatch: pytest.MonkeyPatch) -> Callable[[Driver], None]:
    def use(driver: Driver) -> None:
        flags = type("flags", (), {"CU_STREAM_NON_BLOCKING": 1})
        names = type("driver", (), {"CU_MEMHOSTREGISTER_PORTABLE": 1, "CUstream_flags": flags})
        for module in (bus, slots, transfer):
            monkeypatch.setattr(module, "call", driver.call)
        for module in (bus, slots):
            monkeypatch.setattr(module, "bindings", lambda: names)
        monkeypatch.setattr(bus, "copy_to_gpu", driver.copy_to_gpu)

    return use


class Gpu:
    """Memory of this process in its place."""

    def __init__(self, content: bytes = bytes(LENGTH)) -> None:
        self.memory = ctypes.create_string_buffer(content, LENGTH)
        self.base = ctypes.addressof(self.memory)

    def parts(self, offset: int, length: int) -> Iterator[tuple[int, int]]:
        """In two, as where allocations meet."""
        yield self.base + offset, length // 2
        yield self.base + offset + length // 2, length - length // 2


def in_time(work: Callable[[], object]) -> BaseException | None:
    """What it raises; whatever happens, it ends, and so do its threads."""
    before, found = set(threading.enumerate()), []

    def run() -> None:
        try:
            work()
        except BaseException as error:
            found.append(error)

    thread = threading.Thread(target=run, daemon=True)
    REAL_START(thread)
    thread.join(GUARD_SECONDS)
    assert set(threading.enumerate()) <= before, "a thread waits for ever"
    return found[0] if found else None


REAL_START = threading.Thread.start


@pytest.fixture
def stored(tmp_path: Path) -> tuple[Path, bytes]:
    content = os.urandom(LENGTH)
    (tmp_path / "rank-0").write_bytes(content)
    return tmp_path / "rank-0", content


def load(path: Path, gpu: Gpu, lent: Slots | None = None, digests: list[str] | None = None) -> None:
    source = transfer.Source([path])
    try:
        transfer.load(source, PIECES, gpu.parts, digests, None, THREADS, threading.Event(), None, lent)
    finally:
        source.close()


def test_what_is_in_the_file_is_there(stored: tuple[Path, bytes], use: Callable[[Driver], None]) -> None:
    path, content = stored
    digests = [blake3(content[at : at + length]).hexdigest() for at, length in PIECES]
    for lent in (None, Slots(THREADS * EACH + 1)):
        driver, gpu = Driver(), Gpu()
        use(driver)
        load(path, gpu, lent, digests)
        assert gpu.memory.raw == content and not driver.wrong
        assert len(driver.locked) == (lent is not None)


def test_other_bytes_are_named(stored: tuple[Path, bytes], use: Callable[[Driver], None]) -> None:
    path, _ = stored
    use(Driver())
    error = in_time(lambda: load(path, Gpu(), None, ["00"] * len(PIECES)))
    assert isinstance(error, transfer.DigestError) and "rank-0 (bytes" in str(error)


@pytest.mark.parametrize("fail", range(40))
def test_whatever_call_fails_all_ends_and_all_slots_are_back(
    fail: int, stored: tuple[Path, bytes], use: Callable[[Driver], None]
) -> None:
    path, content = stored
    driver, gpu, lent = Driver(fail), Gpu(), Slots(THREADS * EACH)
    use(driver)
    error = in_time(lambda: load(path, gpu, lent))
    reached = next(driver.count) > fail
    assert isinstance(error, DriverError) if reached else gpu.memory.raw == content
    assert len(lent._free) == lent.count and not driver.wrong
    lent.close()
    use(Driver())
    load(path, gpu, lent)
    assert gpu.memory.raw == content, "and again, with the same slots"


@pytest.mark.parametrize("refused", range(THREADS + 1))
def test_without_a_thread_all_ends_before_slots_and_files_are_given_back(
    refused: int,
    stored: tuple[Path, bytes],
    tmp_path: Path,
    use: Callable[[Driver], None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    path, content = stored
    driver, lent, gpu = Driver(), Slots(THREADS * EACH), Gpu(content)
    use(driver)
    started = itertools.count()

    def start(thread: threading.Thread) -> None:
        if next(started) == refused:
            raise RuntimeError("can't start new thread")
        REAL_START(thread)

    monkeypatch.setattr(threading.Thread, "start", start)
    assert isinstance(in_time(lambda: load(path, gpu, lent)), RuntimeError)
    assert len(lent._free) == lent.count and not driver.wrong
    started = itertools.count()
    with (tmp_path / "new").open("wb") as file:
        error = in_time(lambda: transfer.store([file.fileno()], PIECES, gpu.parts, None, THREADS + 1))
    assert isinstance(error, RuntimeError) and not driver.wrong


def test_what_is_stored_is_what_was_there(tmp_path: Path, use: Callable[[Driver], None]) -> None:
    content = os.urandom(LENGTH)
    driver = Driver()
    use(driver)
    with (tmp_path / "new").open("wb") as file:
        digests = transfer.store([file.fileno()], PIECES, Gpu(content).parts, None, THREADS)
    assert (tmp_path / "new").read_bytes() == content and not driver.wrong and not driver.locked
    assert digests == [blake3(content[at : at + length]).hexdigest() for at, length in PIECES]
