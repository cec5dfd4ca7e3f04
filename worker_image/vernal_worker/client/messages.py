"""Messages between a program and the keeper of its engine: lines of JSON over a socket pair."""

import socket
from collections.abc import Callable
from enum import StrEnum

import msgspec
from vernal_contract import decoding
from vernal_contract.state import WorkerState


class How(StrEnum):
    """How to get an engine."""

    COLD = "cold"
    """Start vLLM; the checkpoints that there may be are not looked at."""
    THAW = "thaw"
    """Thaw, or fail."""
    AUTO = "auto"
    """Thaw a checkpoint that fits; if there is none, start vLLM and make one."""
    DISABLED = "disabled"
    """vLLM's AsyncLLM in the program's process, with no keeper: it is never asked for this."""


class Start(msgspec.Struct, frozen=True, tag=True):
    how: How
    api: str  # path of the Python API's socket


class Freeze(msgspec.Struct, frozen=True, tag=True):
    store: str
    api: str


class End(msgspec.Struct, frozen=True, tag=True):
    """Stop the engine in order; the keeper then ends, without an answer."""

    seconds: float


class Done(msgspec.Struct, frozen=True, tag=True):
    state: WorkerState


class Refused(msgspec.Struct, frozen=True, tag=True):
    reason: str
    message: str


Request = Start | Freeze | End
Answer = Done | Refused

_requests: Callable[[bytes], Request] = decoding.json_decoder(Request)
_answers: Callable[[bytes], Answer] = decoding.json_decoder(Answer)


class Lines:
    """One end of the socket pair."""

    def __init__(self, connection: socket.socket) -> None:
        self.connection = connection
        self._stream = connection.makefile("rb")

    def send(self, message: Request | Answer) -> None:
        """Raises: OSError: the other end is gone."""
        self.connection.sendall(msgspec.json.encode(message) + b"\n")

    def request(self) -> Request | None:
        """The next one; None if the program is gone."""
        line = self._stream.readline()
        return _requests(line) if line else None

    def answer(self) -> Answer | None:
        """The next one; None if the keeper is gone."""
        line = self._stream.readline()
        return _answers(line) if line else None

    def close(self) -> None:
        """End the conversation, also if a fork of this process still holds the connection."""
        try:
            self.connection.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass
        self._stream.close()
        self.connection.close()
