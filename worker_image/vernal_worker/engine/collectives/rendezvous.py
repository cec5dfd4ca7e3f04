"""The processes of one worker meet on Unix sockets and pass descriptors to each other."""

import os
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

_RETRY = 0.002


class MeetingError(Exception):
    """Another rank did not come, or went away."""


class Meeting:
    """A connection between each two ranks, for a `with` statement. All call the same methods in the same order."""

    def __init__(self, path: Path, rank: int, ranks: int, timeout: float) -> None:
        """All ranks name the same `path`, of which nothing is left afterwards; they may come in any order.

        Raises:
            MeetingError: one did not come within `timeout` seconds.
            OSError: a socket cannot be made.
        """
        deadline = time.monotonic() + timeout
        self._others: dict[int, socket.socket] = {}
        with ExitStack() as stack:
            stack.callback(self.close)
            # Of two ranks the lower one listens, before it connects anywhere: so nobody waits in a circle.
            higher = range(rank + 1, ranks)
            listeners = {other: stack.enter_context(_Listener(_between(path, rank, other))) for other in higher}
            for other in range(rank):
                self._others[other] = _connect(_between(path, other, rank), deadline)
            for other, listener in listeners.items():
                self._others[other] = listener.accept(deadline)
            for connection in self._others.values():
                connection.settimeout(timeout)
            stack.pop_all()
            for listener in listeners.values():
                listener.close()

    def __enter__(self) -> "Meeting":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        for connection in self._others.values():
            connection.close()

    def trade(self, fd: int | None, note: int = 0) -> dict[int, tuple[int, int]]:
        """Offer a descriptor, or nothing, to all others, with a number below 256; returns theirs, by rank, the
        descriptors for the caller to close.

        Raises: MeetingError: one has gone, or says nothing.
        """
        answers = self._exchange(bytes([note]), fd)
        return {rank: (fd, answer[0]) for rank, (answer, fd) in answers.items() if fd is not None}

    def agree(self, good: bool) -> bool:
        """Whether it is good on all sides. Raises: see `trade`."""
        answers = self._exchange(b"+" if good else b"-", None)
        return good and all(note == b"+" for note, _ in answers.values())

    def _exchange(self, note: bytes, fd: int | None) -> dict[int, tuple[bytes, int | None]]:
        """A byte to each, with a descriptor or without, and one from each."""
        answers: dict[int, tuple[bytes, int | None]] = {}
        try:
            for rank, connection in self._others.items():
                with _lost(rank):
                    socket.send_fds(connection, [note], [] if fd is None else [fd])
            for rank, connection in self._others.items():
                with _lost(rank):
                    answer, fds, _, _ = socket.recv_fds(connection, 1, 1)
                if not answer:
                    raise MeetingError(f"rank {rank} is lost: it has gone")
                answers[rank] = answer, fds[0] if fds else None
        except MeetingError:
            for _, received in answers.values():
                if received is not None:
                    os.close(received)
            raise
        return answers


@contextmanager
def _lost(rank: int) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise MeetingError(f"rank {rank} is lost: {error}") from error


class _Listener:
    """Where one other rank comes to."""

    def __init__(self, path: Path) -> None:
        self._path = path
        path.unlink(missing_ok=True)  # left behind by one that was killed
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            self._socket.bind(str(path))
            path.chmod(0o600)
            self._socket.listen(1)
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> "_Listener":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def accept(self, deadline: float) -> socket.socket:
        self._socket.settimeout(max(0.0, deadline - time.monotonic()))
        try:
            return self._socket.accept()[0]
        except (TimeoutError, BlockingIOError) as error:
            raise MeetingError(f"the other rank did not come to {self._path}") from error

    def close(self) -> None:
        self._socket.close()
        self._path.unlink(missing_ok=True)


def _between(path: Path, low: int, high: int) -> Path:
    return path.with_name(f"{path.name}-{low}-{high}.sock")


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
