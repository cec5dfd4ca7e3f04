"""The supervisor's side of the control socket: blocking calls, every one bounded, every one interruptible."""

import contextlib
import socket
import threading
import time
from collections.abc import Sequence
from typing import TypeVar

import msgspec
from vernal_contract.config import MAX_BODY_BYTES, WARM_UP_MORE_SECONDS

from vernal_worker.control import protocol
from vernal_worker.control.protocol import Answer, Command

_A = TypeVar("_A", bound=Answer)
_ABORT_SHARE = 0.6  # of the time for `AbortAll`, for clients that read slowly
_SLICE = 0.2  # how late, in seconds, a call notices that it was cancelled


class ControlError(Exception):
    """A call brought no usable answer."""


class UnreachableError(ControlError):
    """Nobody listens on the socket (not started yet, or dead), or the connection broke."""


class TimedOutError(ControlError):
    """The engine took the command and did not answer in time."""


class RefusedError(ControlError):
    """The engine answered that it could not do it; the message is the engine's."""


class CallCancelledError(ControlError):
    """The supervisor gave the call up."""


class EngineClient:
    """Calls over one engine's control socket. Safe to use from several threads: each call has its own
    connection."""

    def __init__(self, path: str, cancel: threading.Event | None = None) -> None:
        self._path = path
        self._cancel = cancel

    def status(self, timeout: float = 2.0) -> protocol.EngineStatus:
        return self._call(protocol.GetStatus(), protocol.EngineStatus, timeout)

    def canary(self, timeout: float) -> protocol.Canary:
        return self._call(protocol.RunCanary(), protocol.Canary, timeout)

    def warm_up(self, seconds: float) -> dict[str, float]:
        """Takes up to `seconds`, and what the engine compiles then. Returns how long the first of each kind took."""
        return self._call(protocol.WarmUp(seconds=seconds), protocol.Warmed, seconds + WARM_UP_MORE_SECONDS).seconds

    def store_weights(self, directory: str, piece: int, timeout: float) -> list[protocol.StoredRank]:
        return self._call(protocol.StoreWeights(directory=directory, piece=piece), protocol.Stored, timeout).ranks

    def quiesce(self, timeout: float, weights: protocol.Weights = protocol.Weights.IN_HOST_MEMORY) -> None:
        self._call(protocol.Quiesce(weights=weights), protocol.Done, timeout)

    def wake(self, how: protocol.Wake, timeout: float) -> None:
        self._call(how, protocol.Done, timeout)

    def resume(self, pod: protocol.PodIdentity, secrets: dict[str, str], timeout: float) -> None:
        self._call(protocol.Resume(pod=pod, secrets=secrets), protocol.Done, timeout)

    def listen(
        self, listener: socket.socket, keep_alive: float, timeout: float, body_bytes: int = MAX_BODY_BYTES
    ) -> None:
        """`keep_alive`: seconds that a connection without a request is kept. `body_bytes`: the largest of a request."""
        command = protocol.Listen(keep_alive=keep_alive, body_bytes=body_bytes)
        self._call(command, protocol.Done, timeout, [listener.fileno()])

    def leave(self, seconds_left: float, timeout: float) -> None:
        """`seconds_left`: until requests in flight are aborted, for whoever asks /health."""
        self._call(protocol.Leave(seconds_left=seconds_left), protocol.Done, timeout)

    def stop_listening(self, timeout: float) -> None:
        self._call(protocol.StopListening(), protocol.Done, timeout)

    def abort_all(self, timeout: float) -> protocol.Aborted:
        return self._call(protocol.AbortAll(seconds=timeout * _ABORT_SHARE), protocol.Aborted, timeout)

    def open_api(self, path: str, timeout: float) -> None:
        self._call(protocol.OpenApi(path=path), protocol.Done, timeout)

    def close_api(self, timeout: float) -> None:
        self._call(protocol.CloseApi(), protocol.Done, timeout)

    def metrics(self, timeout: float = 2.0) -> str:
        return self._call(protocol.GetMetrics(), protocol.Metrics, timeout).text

    def shutdown(self, timeout: float) -> None:
        """Ask only: the engine exits some time within `timeout` seconds after the answer."""
        self._call(protocol.Shutdown(timeout=timeout), protocol.Done, timeout)

    def _call(self, command: Command, wanted: type[_A], timeout: float, fds: Sequence[int] = ()) -> _A:
        """Send `command`, wait for the answer.

        Raises:
            UnreachableError, TimedOutError, RefusedError, CallCancelledError: see there.
        """
        what = type(command).__name__
        deadline = time.monotonic() + timeout
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
            connection.settimeout(min(timeout, _SLICE))
            try:
                connection.connect(self._path)
            except OSError as error:
                raise UnreachableError(f"{what}: no engine at {self._path}: {error}") from error
            self._send_all(connection, protocol.encode(command), fds, what, deadline)
            line = self._read_all(connection, what, deadline)
        try:
            answer = protocol.decode_answer(line)
        except msgspec.DecodeError as error:
            raise UnreachableError(f"{what}: the engine's answer is not understood: {error}") from error
        if isinstance(answer, protocol.Failed):
            raise RefusedError(f"{what}: {answer.message}")
        if not isinstance(answer, wanted):
            raise RefusedError(f"{what}: answered with {type(answer).__name__} instead of {wanted.__name__}")
        return answer

    def _send_all(self, connection: socket.socket, data: bytes, fds: Sequence[int], what: str, deadline: float) -> None:
        """A stream socket takes as much as it has room for: the rest follows when the engine has read. Descriptors go
        with the first byte."""
        view, left = memoryview(data), list(fds)
        while view:
            connection.settimeout(self._slice(what, deadline))
            with contextlib.suppress(TimeoutError):
                try:
                    sent = socket.send_fds(connection, [view], left) if left else connection.send(view)
                except OSError as error:
                    if isinstance(error, TimeoutError):
                        raise
                    raise UnreachableError(f"{what}: the engine broke the connection: {error}") from error
                view, left = view[sent:], []

    def _slice(self, what: str, deadline: float) -> float:
        """How long to wait before looking again whether to go on."""
        if self._cancel is not None and self._cancel.is_set():
            raise CallCancelledError(f"{what}: given up")
        if (left := deadline - time.monotonic()) <= 0:
            raise TimedOutError(f"{what}: no answer from the engine in time")
        return min(left, _SLICE)

    def _read_all(self, connection: socket.socket, what: str, deadline: float) -> bytes:
        """Up to the end of the stream, not only of the line: so the engine holds no connection when a call
        returns."""
        parts: list[bytes] = []
        size = 0
        while True:
            connection.settimeout(self._slice(what, deadline))
            with contextlib.suppress(TimeoutError):
                try:
                    part = connection.recv(1 << 20)
                except ConnectionError as error:
                    raise UnreachableError(f"{what}: the engine broke the connection: {error}") from error
                size += len(part)
                if size > protocol.MAX_MESSAGE_BYTES:
                    raise UnreachableError(f"{what}: the engine's answer does not end")
                if part:
                    parts.append(part)
                elif parts:
                    return b"".join(parts)
                else:
                    raise UnreachableError(f"{what}: the engine closed the connection without an answer")
