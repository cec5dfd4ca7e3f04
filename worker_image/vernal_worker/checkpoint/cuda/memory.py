"""GPU memory of a tree that is about to come back: made, filled and verified here, handed to the tree's processes.

Each allocation can be shared (a POSIX file descriptor stands for it); a process of the tree imports it and maps it
where its own was (`vernal_worker.engine.weights`). So the weights are on the GPU by the time that CRIU is done. The
memory lives on in the process that mapped it when this one ends.

Where the driver lets the process import nothing, which `numbers` is there to prevent, there is the way back: the
process makes memory of its own and shares it with this one, which copies the content over on the GPU. `Fetch` says
which.
"""

import contextlib
import logging  # noqa: F401  # for `threads`: when no descriptor is left it could not be imported
import os
import socket
import threading
import time
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
from vernal_contract import decoding

from vernal_worker import threads as keep
from vernal_worker.checkpoint.cuda import transfer
from vernal_worker.checkpoint.cuda.digest import digester
from vernal_worker.checkpoint.cuda.driver import DriverError, bindings, call
from vernal_worker.checkpoint.cuda.layout import STORED, Rank, ranges
from vernal_worker.checkpoint.cuda.slots import EACH, Slots, default_threads
from vernal_worker.checkpoint.timings import Timings

FDS_A_MESSAGE = 200
"""The kernel passes at most 253 descriptors in one message (SCM_MAX_FD, unix(7))."""


class Fetch(msgspec.Struct, frozen=True):
    """What a rank asks for: descriptors, after which it hangs up, or says in another `Fetch` that it can import none of
    them. `copies`: it sends `Copy` after `Copy` and hangs up."""

    rank: int
    copies: bool


class Copy(msgspec.Struct, frozen=True):
    """Fill the rank's own memory, of which a descriptor for each of these segments comes along."""

    segments: tuple[int, ...]


class Handover(msgspec.Struct, frozen=True):
    """The answer to each of them. `made[i]`, to a `Fetch`: whether a descriptor for segment i follows."""

    made: tuple[bool, ...] = ()
    problem: str | None = None


MESSAGE = 1 << 16
"""The longest of these on the socket (SOCK_SEQPACKET keeps them apart), in bytes."""


class RankMemory:
    """The memory of one rank, on one GPU."""

    def __init__(self, device: int, rank: Rank) -> None:
        self._rank = rank
        self.context: Any = call("cuDevicePrimaryCtxRetain", call("cuDeviceGet", device))
        self._properties = shareable(device)
        self._device = device
        self._handles: list[Any | None] = [None] * len(rank.segments)
        self._places: dict[int, int] = {}
        """Addresses of the segments that are mapped here, by number."""
        self._base = 0
        self._exported: list[int] = []

    def make_stored(self) -> None:
        """Allocate the segments that have content, and map them one after the other as they are in the file.

        Raises: DriverError: e.g. out of memory.
        """
        call("cuCtxSetCurrent", self.context)
        if not self._rank.bytes:
            return
        self._base = int(call("cuMemAddressReserve", self._rank.bytes, 0, 0, 0))
        offset = 0
        for number, segment in enumerate(self._rank.segments):
            if segment.tag == STORED:
                handle = call("cuMemCreate", segment.size, self._properties, 0)
                call("cuMemMap", self._base + offset, segment.size, 0, handle, 0)
                self._handles[number] = handle
                self._places[number] = self._base + offset
                offset += segment.size
        set_access(self._device, self._base, self._rank.bytes)

    def make_others(self) -> None:
        """Allocate the segments without content, as far as there is room: the tree makes the rest itself."""
        call("cuCtxSetCurrent", self.context)
        with contextlib.suppress(DriverError):
            for number, segment in enumerate(self._rank.segments):
                if self._handles[number] is None:
                    self._handles[number] = call("cuMemCreate", segment.size, self._properties, 0)

    def export_all(self) -> None:
        """Have descriptors ready for `hand_over`, while nobody waits for them. Raises: DriverError."""
        call("cuCtxSetCurrent", self.context)
        self._exported = [export(handle) for handle in self._handles if handle is not None]

    def fill(
        self,
        directory: Path,
        piece: int,
        digests: Sequence[str] | None,
        threads: int,
        stop: threading.Event,
        slots: Slots | None,
    ) -> None:
        """Read and verify the content. Raises: see `transfer.load`."""
        if not self._rank.bytes:
            return
        call("cuCtxSetCurrent", self.context)
        pieces = ranges(self._rank.bytes, piece)
        source = transfer.Source([directory / name for name in self._rank.files])
        hashing = digester(self._device, len(pieces), piece) if digests is not None else None
        try:

            def parts(offset: int, length: int) -> Iterator[tuple[int, int]]:
                yield self._base + offset, length

            transfer.load(source, pieces, parts, digests, self.context, threads, stop, hashing, slots)
        finally:
            source.close()
            if hashing is not None:
                with contextlib.suppress(DriverError):  # then the transfer's own error says more
                    hashing.close()

    def hand_over(self, connection: socket.socket) -> bool:
        """Send a descriptor for each segment, and let go of the memory when the rank has taken it. False: it cannot,
        and asks for copies."""
        made = tuple(handle is not None for handle in self._handles)
        connection.send(msgspec.json.encode(Handover(made=made)))
        for start, count in ranges(len(self._exported), FDS_A_MESSAGE):
            socket.send_fds(connection, [b"."], self._exported[start : start + count])
        taken = not connection.recv(MESSAGE)
        if taken:
            self.let_go()
        return taken

    def copy_over(self, connection: socket.socket) -> None:
        """Copy segments into the memory that the rank sends, until it hangs up, and let go of the rest. What has no
        content goes first, for the rank needs its room."""
        call("cuCtxSetCurrent", self.context)
        self._close_exported()
        for number in range(len(self._handles)):
            if number not in self._places:
                self._release(number)
        connection.send(msgspec.json.encode(Handover()))
        while True:
            data, fds, _, _ = socket.recv_fds(connection, MESSAGE, FDS_A_MESSAGE)
            if not data:
                break
            try:
                self._copy(decoding.json(data, Copy).segments, fds)
            finally:
                _close(fds)
            connection.send(msgspec.json.encode(Handover()))
        self.let_go()

    def _copy(self, numbers: Sequence[int], fds: Sequence[int]) -> None:
        """What was copied is let go of at once: weights that fill more than half of a GPU are there twice only little
        by little."""
        sizes = [self._rank.segments[number].size for number in numbers]
        base, handles = int(call("cuMemAddressReserve", sum(sizes), 0, 0, 0)), list[Any]()
        at = base
        try:
            for fd, size in zip(fds, sizes, strict=True):
                handles.append(take(fd))
                call("cuMemMap", at, size, 0, handles[-1], 0)
                at += size
            set_access(self._device, base, sum(sizes))
            at = base
            for number, size in zip(numbers, sizes, strict=True):
                call("cuMemcpyDtoDAsync", at, self._places[number], size, 0)
                at += size
            call("cuStreamSynchronize", 0)
        finally:
            at = base
            for handle, size in zip(handles, sizes, strict=False):
                call("cuMemUnmap", at, size)
                call("cuMemRelease", handle)
                at += size
            call("cuMemAddressFree", base, sum(sizes))
        for number in numbers:
            self._release(number)

    def let_go(self) -> None:
        """Unmap and release; what another process has mapped stays."""
        call("cuCtxSetCurrent", self.context)
        self._close_exported()
        for number in range(len(self._handles)):
            self._release(number)
        if self._base:
            call("cuMemAddressFree", self._base, self._rank.bytes)
            self._base = 0

    def _close_exported(self) -> None:
        exported, self._exported = self._exported, []
        _close(exported)

    def _release(self, number: int) -> None:
        handle, self._handles[number] = self._handles[number], None
        if (place := self._places.pop(number, None)) is not None:
            call("cuMemUnmap", place, self._rank.segments[number].size)
        if handle is not None:
            call("cuMemRelease", handle)


class Broker:
    """The memory of all ranks: filled in the background, handed out on a Unix socket."""

    def __init__(
        self,
        ranks: Sequence[Rank],
        directory: Path,
        piece: int,
        digests: Sequence[Sequence[str]] | None,
    ) -> None:
        """`digests`: of each rank's pieces, None to trust the storage."""
        self._threads = default_threads(len(ranks))
        self.wanted_slots = len(ranks) * self._threads * EACH
        """Of all ranks together."""
        self.slots: Slots | None = None
        """So many, or more; without them they are made."""
        self._ranks, self._directory, self._piece, self._digests = ranks, directory, piece, digests
        self._memories: list[RankMemory] = []
        self._stop = threading.Event()
        self._done = threading.Event()
        self.problem: BaseException | None = None
        self.seconds = Timings()

    def start(self, path: Path) -> None:
        """Begin, and listen on `path`. Each connection is one rank, which begins with a `Fetch`. Raises nothing: see
        `wait`."""
        try:
            path.unlink(missing_ok=True)
            listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            listener.bind(str(path))
            listener.listen(len(self._ranks))
            accept = partial(keep.accept, listener, "memory-rank", self._answer)
            keep.keep_running("memory", accept, keep.log_failure)  # ranks wait for it until the thaw's time is over
            threading.Thread(target=self._work, daemon=True).start()
        except (OSError, RuntimeError) as error:  # the latter: no more threads
            self.problem = error
            self._done.set()

    def wait(self) -> None:
        """Until everything is there and verified. Raises: what went wrong: DigestError, OSError, DriverError."""
        self._done.wait()
        if self.problem is not None:
            raise self.problem

    def close(self) -> None:
        """Give up what was not handed over."""
        self._stop.set()
        self._done.wait()
        for memory in self._memories:
            memory.let_go()

    def _work(self) -> None:
        fillers: list[threading.Thread] = []
        try:
            began = time.monotonic()
            for device, rank in enumerate(self._ranks):
                self._memories.append(RankMemory(device, rank))
                self._memories[-1].make_stored()
            self.seconds["allocate"] = time.monotonic() - began
            for number in range(len(self._ranks)):
                filler = threading.Thread(target=self._fill, args=[number])
                filler.start()
                fillers.append(filler)
            for memory in self._memories:
                memory.make_others()
                memory.export_all()
            self.seconds["allocate_others"] = time.monotonic() - began
            for filler in fillers:
                filler.join()
            self.seconds["total"] = time.monotonic() - began
        except BaseException as error:
            self.problem = self.problem or error
            self._stop.set()
        finally:
            for filler in fillers:
                filler.join()  # they write into memory that is let go of from now on
            self._done.set()

    def _fill(self, number: int) -> None:
        try:
            digests = self._digests[number] if self._digests is not None else None
            began = time.monotonic()
            self._memories[number].fill(self._directory, self._piece, digests, self._threads, self._stop, self.slots)
            self.seconds[f"fill_{number}"] = time.monotonic() - began
        except BaseException as error:
            self.problem = self.problem or error
            self._stop.set()

    def _answer(self, connection: socket.socket) -> None:
        with connection:
            try:
                fetch = decoding.json(connection.recv(MESSAGE), Fetch)
                self.wait()
                memory = self._memories[fetch.rank]
                if fetch.copies or not memory.hand_over(connection):
                    memory.copy_over(connection)
            except Exception as error:
                problem = Handover(problem=f"{type(error).__name__}: {error}")
                with contextlib.suppress(OSError):
                    connection.send(msgspec.json.encode(problem))


def shareable(device: int) -> Any:
    """Properties of memory on a GPU that another process can import."""
    driver = bindings()
    properties = driver.CUmemAllocationProp()
    properties.type = driver.CUmemAllocationType.CU_MEM_ALLOCATION_TYPE_PINNED
    properties.location.type = driver.CUmemLocationType.CU_MEM_LOCATION_TYPE_DEVICE
    properties.location.id = device
    properties.requestedHandleTypes = driver.CUmemAllocationHandleType.CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR
    return properties


def set_access(device: int, address: int, size: int) -> None:
    """Let a GPU read and write what is mapped at `address`. Raises: DriverError."""
    driver = bindings()
    access = driver.CUmemAccessDesc()
    access.location.type = driver.CUmemLocationType.CU_MEM_LOCATION_TYPE_DEVICE
    access.location.id = device
    access.flags = driver.CUmemAccess_flags.CU_MEM_ACCESS_FLAGS_PROT_READWRITE
    call("cuMemSetAccess", address, size, [access], 1)


def export(handle: Any) -> int:
    """A new file descriptor that stands for an allocation, which is of `shareable` properties. Raises: DriverError."""
    kind = bindings().CUmemAllocationHandleType.CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR
    return int(call("cuMemExportToShareableHandle", handle, kind, 0))


def take(fd: int) -> Any:
    """The allocation of another process that a descriptor stands for; the descriptor stays open. In a process that may
    have been frozen: within `numbers.taken_as`.

    Raises: DriverError: e.g. this process does not know the GPU.
    """
    kind = bindings().CUmemAllocationHandleType.CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR
    return call("cuMemImportFromShareableHandle", fd, kind)


def _close(fds: Sequence[int]) -> None:
    for fd in fds:
        os.close(fd)
