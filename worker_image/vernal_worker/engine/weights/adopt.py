"""GPU memory that the CUDA helper made and filled, taken over by this process.

vLLM's `wake_up` makes each allocation anew with `cumem.create_and_map`; between `begin` and `end` that function takes
the helper's memory instead, so that everything else about waking up stays vLLM's. If the driver refuses that, it has
the helper copy into memory that it makes: see `vernal_worker.checkpoint.cuda.memory`.
"""

import ctypes
import logging
import os
import socket
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any, Protocol

import msgspec
from vernal_contract import decoding

from vernal_worker.checkpoint.cuda import numbers
from vernal_worker.checkpoint.cuda.driver import DriverError, call
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

_logger = logging.getLogger("vernal_worker.engine")

_Allocation = tuple[int, int, int, int]  # device, size, address, where the allocator keeps the handle
_Make = Callable[[_Allocation], None]


class _Source(Protocol):
    def create_and_map(self, allocation: _Allocation) -> None: ...

    def finish(self) -> None: ...


class _Taking:
    """The helper's memory, where it made some."""

    def __init__(self, handles: dict[int, Any], make: _Make) -> None:
        """`handles`: by address."""
        self._handles, self._make = handles, make

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

    def __init__(self, connection: socket.socket, every: list[tuple[int, int, str]], make: _Make) -> None:
        """`connection`: on which copies were asked for."""
        self._make = make
        self._connection = connection
        self._numbers = {address: number for number, (address, _, tag) in enumerate(every) if tag == STORED}
        self._waiting: list[tuple[int, int]] = []  # number and descriptor
        self._bytes = 0

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


def begin(path: str, rank: int) -> None:
    """Take the memory of `rank` at the helper's socket into use for the `wake_up` that follows.

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
        source = _source(connection, rank, cumem.create_and_map)
    except BaseException:
        connection.close()
        raise
    _current.append((source, cumem.create_and_map))
    cumem.create_and_map = source.create_and_map


def _source(connection: socket.socket, rank: int, make: _Make) -> _Source:
    every = allocations()
    connection.send(msgspec.json.encode(Fetch(rank, copies=False)))
    handover = _answer(connection)
    if len(every) != len(handover.made):
        raise RuntimeError(f"{len(handover.made)} segments were stored, this process has {len(every)}")
    addresses = [address for (address, _, _), made in zip(every, handover.made, strict=True) if made]
    with ExitStack() as stack:
        fds = list[int]()
        while len(fds) < len(addresses):
            data, received, _, _ = socket.recv_fds(connection, MESSAGE, FDS_A_MESSAGE)
            for fd in received:
                stack.callback(os.close, fd)
            if not data:
                raise RuntimeError("the helper ended the connection early")
            fds += received
        try:
            handles = _take(fds)
        except DriverError as error:
            _logger.warning("rank %d: memory of this GPU cannot be taken over (%s): weights are copied", rank, error)
        else:
            connection.close()
            return _Taking(dict(zip(addresses, handles, strict=True)), make)
    connection.send(msgspec.json.encode(Fetch(rank, copies=True)))
    _answer(connection)
    return _Copying(connection, every, make)


def _take(fds: list[int]) -> list[Any]:
    """The allocations that descriptors stand for, all of them or none. Raises: DriverError, OSError."""
    import torch

    handles: list[Any] = []
    try:
        with numbers.taken_as(numbers.own(torch.cuda.current_device())):
            for fd in fds:
                handles.append(take(fd))
    except BaseException:
        for handle in handles:
            call("cuMemRelease", handle)
        raise
    return handles


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
