"""GPU memory that the CUDA helper made and filled, taken over by this process.

vLLM's `wake_up` makes each allocation anew with `cumem.create_and_map`; between `begin` and `end` that function takes
the helper's memory instead, or has the helper copy into memory that it makes, so that everything else about waking up
stays vLLM's. Which of the two is for the caller to know: see `vernal_worker.checkpoint.cuda.memory`.
"""

import ctypes
import os
import socket
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any, Protocol

import msgspec
from vernal_contract import decoding

from vernal_worker.checkpoint.cuda.driver import call
from vernal_worker.checkpoint.cuda.layout import STORED
from vernal_worker.checkpoint.cuda.memory import (
    FDS_A_MESSAGE,
    MESSAGE,
    Copy,
    Fetch,
    Handover,
    export,
    set_access,
    shareable,
    take,
)
from vernal_worker.engine.weights.save import allocations

_TIMEOUT = 120.0
_BATCH = 1 << 30
"""Bytes that are copied at a time: for so long they are on the GPU twice."""

_Allocation = tuple[int, int, int, int]  # device, size, address, where the allocator keeps the handle
_Make = Callable[[_Allocation], None]


class _Source(Protocol):
    def create_and_map(self, allocation: _Allocation) -> None: ...

    def finish(self) -> None: ...


class _Taking:
    """The helper's memory, where it made some."""

    def __init__(self, connection: socket.socket, every: list[tuple[int, int, str]], rank: int, make: _Make) -> None:
        self._make = make
        self._handles: dict[int, Any] = {}  # by address
        with connection:
            connection.send(msgspec.json.encode(Fetch(rank, copies=False)))
            handover = _answer(connection)
            if len(every) != len(handover.made):
                raise RuntimeError(f"{len(handover.made)} segments were stored, this process has {len(every)}")
            addresses = [address for (address, _, _), made in zip(every, handover.made, strict=True) if made]
            while len(self._handles) < len(addresses):
                data, fds, _, _ = socket.recv_fds(connection, MESSAGE, FDS_A_MESSAGE)
                if not data:
                    raise RuntimeError("the helper ended the connection early")
                for fd in fds:
                    self._handles[addresses[len(self._handles)]] = take(fd)
                    os.close(fd)

    def create_and_map(self, allocation: _Allocation) -> None:
        handle = self._handles.pop(allocation[2], None)
        if handle is None:
            self._make(allocation)
        else:
            _map(handle, allocation)

    def finish(self) -> None:
        """Nothing is left to do."""


class _Copying:
    """Memory of this process's own, into which the helper copies."""

    def __init__(self, connection: socket.socket, every: list[tuple[int, int, str]], rank: int, make: _Make) -> None:
        self._make = make
        self._connection = connection
        self._numbers = {address: number for number, (address, _, tag) in enumerate(every) if tag == STORED}
        self._waiting: list[tuple[int, int]] = []  # number and descriptor
        self._bytes = 0
        connection.send(msgspec.json.encode(Fetch(rank, copies=True)))
        _answer(connection)

    def create_and_map(self, allocation: _Allocation) -> None:
        device, size, address, _ = allocation
        number = self._numbers.get(address)
        if number is None:
            self._flush()  # so that what the helper has copied is free before more is made
            self._make(allocation)
            return
        handle = call("cuMemCreate", size, shareable(device), 0)
        _map(handle, allocation)
        self._waiting.append((number, export(handle)))
        self._bytes += size
        if self._bytes >= _BATCH or len(self._waiting) == FDS_A_MESSAGE:
            self._flush()

    def finish(self) -> None:
        with self._connection:
            self._flush()

    def _flush(self) -> None:
        waiting, self._waiting, self._bytes = self._waiting, [], 0
        if not waiting:
            return
        with ExitStack() as stack:
            for _, fd in waiting:
                stack.callback(os.close, fd)
            message = msgspec.json.encode(Copy(tuple(number for number, _ in waiting)))
            socket.send_fds(self._connection, [message], [fd for _, fd in waiting])
        _answer(self._connection)


_current: list[tuple[_Source, _Make]] = []
"""What `end` has to finish, and vLLM's own function; one at most."""


def begin(path: str, rank: int, copies: bool) -> None:
    """Take the memory of `rank` at the helper's socket into use for the `wake_up` that follows. `copies`: this process
    did not know its GPU when it was frozen.

    Raises:
        RuntimeError: the helper has it not, or it does not fit; OSError; DriverError.
    """
    from vllm.device_allocator import cumem

    if _current:  # an earlier wake_up never came that far
        _, cumem.create_and_map = _current.pop()
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    connection.settimeout(_TIMEOUT)
    try:
        connection.connect(path)
        kind = _Copying if copies else _Taking
        source: _Source = kind(connection, allocations(), rank, cumem.create_and_map)
    except BaseException:
        connection.close()
        raise
    _current.append((source, cumem.create_and_map))
    cumem.create_and_map = source.create_and_map


def end() -> None:
    """From now on allocations are made as ever. Raises: as `begin`."""
    if _current:
        from vllm.device_allocator import cumem

        source, cumem.create_and_map = _current.pop()
        source.finish()


def _map(handle: Any, allocation: _Allocation) -> None:
    device, size, address, pointer = allocation
    call("cuMemMap", address, size, 0, handle, 0)
    set_access(device, address, size)
    ctypes.c_uint64.from_address(pointer).value = int(handle)  # where the allocator finds it to release it


def _answer(connection: socket.socket) -> Handover:
    data = connection.recv(MESSAGE)
    if not data:
        raise RuntimeError("the helper ended the connection early")
    handover = decoding.json(data, Handover)
    if handover.problem is not None:
        raise RuntimeError(handover.problem)
    return handover
