"""A way from inside a pod, which has no network but loopback, to a server on this machine's loopback."""

import contextlib
import ctypes
import socket
import threading
from typing import Self

from patience import GUARD_SECONDS
from worker_pod import Pod


class Relay:
    """Use as a context manager: `port` of the pod's loopback leads to `target` of this machine's."""

    def __init__(self, pod: Pod, port: int, target: int) -> None:
        self._target = target
        made: list[socket.socket | OSError] = []

        def make() -> None:
            try:
                made.append(_listener(pod, port))
            except OSError as error:
                made.append(error)

        thread = threading.Thread(target=make)  # which stays in the pod's network, and ends
        thread.start()
        thread.join()
        if isinstance(made[0], OSError):
            raise made[0]
        self._listener = made[0]

    def __enter__(self) -> Self:
        threading.Thread(target=self._serve, name="relay", daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)  # wakes `_serve`
        self._listener.close()

    def _serve(self) -> None:
        while True:
            try:
                inside, _ = self._listener.accept()
            except OSError:
                return  # closed: whoever in the pod wants more is refused
            outside = socket.create_connection(("127.0.0.1", self._target), timeout=GUARD_SECONDS)
            for pair in ((inside, outside), (outside, inside)):
                threading.Thread(target=_copy, args=pair, daemon=True).start()


def _listener(pod: Pod, port: int) -> socket.socket:
    """Moves the calling thread to the pod's network (setns(2)); the socket stays where it was made."""
    with open(f"/proc/{pod.init}/ns/net") as namespace:
        if ctypes.CDLL(None, use_errno=True).setns(namespace.fileno(), 0x40000000) != 0:  # CLONE_NEWNET
            raise OSError(ctypes.get_errno(), "setns")
    return socket.create_server(("127.0.0.1", port))


def _copy(source: socket.socket, sink: socket.socket) -> None:
    """Until one side ends; the other is then told."""
    with contextlib.suppress(OSError):
        while data := source.recv(1 << 16):
            sink.sendall(data)
    with contextlib.suppress(OSError):
        sink.shutdown(socket.SHUT_WR)
