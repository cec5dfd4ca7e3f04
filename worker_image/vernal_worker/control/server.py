"""The engine's side of the control socket: a thread that reads commands and runs them on the engine's event
loop.

A thread rather than asyncio streams, because streams cannot take file descriptors along. It sits in `accept`
while nothing is asked, which CRIU freezes and thaws as it is.
"""

import asyncio
import contextlib
import logging
import os
import socket
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path

import msgspec

from vernal_worker import threads
from vernal_worker.control import protocol
from vernal_worker.control.protocol import Answer, AnyCommand, Failed

Handler = Callable[[AnyCommand, list[int]], Awaitable[Answer]]
"""Carries a command out on the event loop. Owns the file descriptors that came with it."""

_logger = logging.getLogger(__name__)
_READ_TIMEOUT = 10.0


class ControlServer:
    """Listens on `path` from `start` on. Commands run concurrently, each in its own task."""

    def __init__(self, path: str, handler: Handler, loop: asyncio.AbstractEventLoop) -> None:
        self._handler = handler
        self._loop = loop
        with contextlib.suppress(FileNotFoundError):
            Path(path).unlink()
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._socket.bind(path)
        self._socket.listen(16)

    def start(self) -> None:
        """For ever: without this thread the supervisor is cut off, and the worker neither ready nor able to end."""
        accept = partial(threads.accept, self._socket, "vernal-command", self._serve)
        threads.keep_running("vernal-control", accept, threads.log_failure)

    def _serve(self, connection: socket.socket) -> None:
        with connection:
            try:
                connection.settimeout(_READ_TIMEOUT)
                line, fds = _receive(connection)
                connection.settimeout(None)
                connection.sendall(protocol.encode(self._answer(line, fds)))
            except OSError as error:  # the client went away, as a cancelled call does
                _logger.debug("control connection ended early: %s", error)
            except Exception:
                _logger.exception("a command on the control socket failed")

    def _answer(self, line: bytes, fds: list[int]) -> Answer:
        try:
            command = protocol.decode_command(line)
        except msgspec.DecodeError as error:
            for fd in fds:
                os.close(fd)
            return Failed(message=f"not a command: {error}")

        async def run() -> Answer:
            return await self._handler(command, fds)

        try:
            return asyncio.run_coroutine_threadsafe(run(), self._loop).result()
        except Exception as error:
            _logger.exception("command %s failed", type(command).__name__)
            return Failed(message=f"{type(error).__name__}: {error}")


def _receive(connection: socket.socket) -> tuple[bytes, list[int]]:
    """A line, and the descriptors that came with it. Raises: OSError: there is no whole line; none is kept open."""
    parts: list[bytes] = []
    fds: list[int] = []
    size = 0
    try:
        while not parts or not parts[-1].endswith(b"\n"):
            part, received, _, _ = socket.recv_fds(connection, 1 << 16, 4)
            fds += received
            size += len(part)
            if not part or size > protocol.MAX_MESSAGE_BYTES:
                raise ConnectionError("the client sent no whole command")
            parts.append(part)
    except OSError:
        for fd in fds:
            os.close(fd)
        raise
    return b"".join(parts), fds
