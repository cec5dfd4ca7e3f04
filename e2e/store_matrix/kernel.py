"""System calls that Python has no function for: loop devices, freezing and shutting down a file system."""

import array
import errno
import fcntl
import os
import select
import socket
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

# linux/loop.h, linux/fs.h; ext4 and xfs share the number of the last one (ext4.h, xfs_fs.h).
_LOOP_CTL_GET_FREE, _LOOP_CONFIGURE, _LO_FLAGS_AUTOCLEAR = 0x4C82, 0x4C0A, 4
_FIFREEZE, _FITHAW = 0xC0045877, 0xC0045878
_GOINGDOWN, _NO_LOG_FLUSH = 0x8004587D, 2


@contextmanager
def loop_device(image: int) -> Iterator[str]:
    """A block device over an open file, for as long as the block takes or it is mounted: the kernel frees it then."""
    while True:
        with open("/dev/loop-control", "rb") as control:
            path = f"/dev/loop{fcntl.ioctl(control, _LOOP_CTL_GET_FREE)}"
        fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        try:
            info = struct.pack("5Q4I64s64s32s2Q", *[0] * 5, 0, 0, 0, _LO_FLAGS_AUTOCLEAR, b"vernal", b"", b"", 0, 0)
            try:
                fcntl.ioctl(fd, _LOOP_CONFIGURE, struct.pack("II", image, 0) + info + bytes(64))
            except OSError as error:
                if error.errno == errno.EBUSY:  # somebody was faster
                    continue
                raise
            yield path
            return
        finally:
            os.close(fd)


def shut_down(place: Path) -> None:
    """ext4 and xfs: every call on the file system at `place` fails from now on, and nothing more reaches the disk, not
    even what is in the journal's buffer."""
    fd = os.open(place, os.O_RDONLY)
    try:
        fcntl.ioctl(fd, _GOINGDOWN, struct.pack("I", _NO_LOG_FLUSH))
    finally:
        os.close(fd)


_NAME = "thawer"


class Thawer:
    """Freezes file systems.

    A process of its own, outside of the namespaces, thaws them if ours is killed: a frozen file system that nobody can
    reach any more stays for ever, with its device. It removes an empty directory in the end.
    """

    def __init__(self, directory: Path) -> None:
        """Of `start`, with the same directory."""
        self._channel = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._channel.connect(str(directory / _NAME))
        # A child that waits for a frozen file system does not die before it is thawed: it must not hold the channel.
        os.register_at_fork(after_in_child=self._channel.close)

    @staticmethod
    def start(directory: Path) -> socket.socket:
        """Start that process. It ends when who was the first to connect is gone, or, if nobody did, when nobody has
        what this returns any more; then `directory` goes."""
        ours, theirs = socket.socketpair()
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        listener.bind(str(directory / _NAME))
        listener.listen()
        if os.fork() == 0:
            try:
                os.setsid()
                ours.close()
                if listener in select.select([listener, theirs], [], [])[0]:
                    _stand_by(listener.accept()[0])
                (directory / _NAME).unlink()
                directory.rmdir()
            finally:
                os._exit(0)
        theirs.close()
        listener.close()
        return ours

    def freeze(self, place: Path) -> None:
        """Whoever writes there waits until `thaw`. Raises: OSError: the file system cannot be frozen."""
        fd = os.open(place, os.O_RDONLY)
        try:
            self._tell(b"hold", fd)
            fcntl.ioctl(fd, _FIFREEZE, 0)
        finally:
            os.close(fd)

    def thaw(self, place: Path) -> None:
        fd = os.open(place, os.O_RDONLY)
        try:
            fcntl.ioctl(fd, _FITHAW, 0)
        finally:
            os.close(fd)
        self.let_go()

    def let_go(self) -> None:
        """What was held for thawing is thawed."""
        self._tell(b"drop")

    def _tell(self, word: bytes, *fds: int) -> None:
        socket.send_fds(self._channel, [word], fds)
        self._channel.recv(16)


def _stand_by(channel: socket.socket) -> None:
    held = array.array("i")
    while True:
        word, fds, _, _ = socket.recv_fds(channel, 16, 1)
        held.extend(fds)
        if word != b"hold":
            for fd in held:
                try:
                    fcntl.ioctl(fd, _FITHAW, 0)
                except OSError:
                    pass  # it is thawed already
                os.close(fd)
            del held[:]
        if not word:
            return
        channel.send(b"done")
