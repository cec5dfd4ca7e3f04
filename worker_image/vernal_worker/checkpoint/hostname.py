"""A host name for process trees that names no pod."""

import ctypes
import socket

HOST_NAME = "localhost"  # resolves to loopback everywhere
_CLONE_NEWUTS = 0x04000000  # unshare(2)


def hide() -> None:
    """Let the calling thread, and every thread and process that it starts from here on, see `HOST_NAME`.

    The host name is the pod's name; Python's `platform`, gloo and others keep it in memory, and so in a checkpoint.
    The UTS namespace is made here, above trees and CRIU, and not in the tree: CRIU would have to restore one of the
    tree's own, which needs a writable /proc/sys. Without the capability for it (SYS_ADMIN) the name stays
    visible, but then nothing can be frozen either.
    """
    if ctypes.CDLL(None).unshare(_CLONE_NEWUTS) == 0:
        socket.sethostname(HOST_NAME)
