"""Two processes of one worker meet on a Unix socket and pass descriptors to each other."""

import socket
import time
from pathlib import Path

_RETRY = 0.002


class MeetingError(Exception):
    """The other rank did not come, or went away."""


class Meeting:
    """A connection between rank 0 and rank 1, for a `with` statement."""

    def __init__(self, path: Path, rank: int, timeout: float) -> None:
        """Both ranks name the same `path`, which is free again afterwards; rank 0 may come later.

        Raises:
            MeetingError: the other one did not come within `timeout` seconds.
            OSError: the socket cannot be made.
        """
        deadline = time.monotonic() + timeout
        self._connection = _accept(path, timeout) if rank == 0 else _connect(path, deadline)
        self._connection.settimeout(timeout)

    def __enter__(self) -> "Meeting":
        return self

    def __exit__(self, *_: object) -> None:
        self._connection.close()

    def trade(self, note: bytes, fd: int | None = None) -> tuple[bytes, int | None]:
        """Send one byte, with a descriptor or without, and return what the other one sends.

        Raises: MeetingError: it has gone, or says nothing.
        """
        try:
            socket.send_fds(self._connection, [note], [] if fd is None else [fd])
            answer, fds, _, _ = socket.recv_fds(self._connection, 1, 1)
        except OSError as error:
            raise MeetingError(f"the other rank is lost: {error}") from error
        if not answer:
            raise MeetingError("the other rank has gone")
        return answer, fds[0] if fds else None

    def agree(self, good: bool) -> bool:
        """Whether it is good on both sides. Raises: see `trade`."""
        return self.trade(b"+" if good else b"-")[0] == b"+" and good


def _accept(path: Path, timeout: float) -> socket.socket:
    path.unlink(missing_ok=True)
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        listener.settimeout(timeout)
        listener.bind(str(path))
        try:
            path.chmod(0o600)
            listener.listen(1)
            return listener.accept()[0]
        except TimeoutError as error:
            raise MeetingError(f"the other rank did not come to {path} within {timeout:g} s") from error
        finally:
            path.unlink(missing_ok=True)


def _connect(path: Path, deadline: float) -> socket.socket:
    while True:
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            connection.connect(str(path))
            return connection
        except OSError as error:  # not there yet, or left behind by one that was killed
            connection.close()
            if time.monotonic() > deadline:
                raise MeetingError(f"the other rank did not come to {path}: {error}") from error
        time.sleep(_RETRY)
