"""A network of the tests' own, with addresses that EndpointSlices may hold: loopback's they may not."""

import ctypes
import fcntl
import os
import socket
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

PREFIX = "10.99"
_NEW_NETWORK = 0x40000000  # CLONE_NEWNET, of unshare(2) and setns(2)
_SET_ADDRESS, _SET_NETMASK, _GET_FLAGS, _SET_FLAGS, _UP = 0x8916, 0x891C, 0x8913, 0x8914, 0x1  # netdevice(7)


@contextmanager
def own_network() -> Iterator[None]:
    """The calling thread, and all threads and processes that it starts meanwhile, are in a network where every address
    of 10.99.0.0/16 is local. It is gone when the last of them has left it. Needs root.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    with Path("/proc/thread-self/ns/net").open() as before:
        if libc.unshare(_NEW_NETWORK) != 0:
            raise OSError(ctypes.get_errno(), "unshare: the tests of going to zero need root")
        try:
            _configure()
            yield
        finally:
            if libc.setns(before.fileno(), _NEW_NETWORK) != 0:
                raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def _configure() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        flags = struct.unpack("16sh", fcntl.ioctl(control, _GET_FLAGS, struct.pack("16sh", b"lo", 0)))[1]
        fcntl.ioctl(control, _SET_FLAGS, struct.pack("16sh", b"lo", flags | _UP))
        # A loopback device's subnets are local as a whole.
        for request, address in ((_SET_ADDRESS, f"{PREFIX}.0.1"), (_SET_NETMASK, "255.255.0.0")):
            value = struct.pack("16sHH4s8s", b"lo:1", socket.AF_INET, 0, socket.inet_aton(address), b"")
            fcntl.ioctl(control, request, value)
