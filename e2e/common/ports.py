"""Ports of servers that are told where to listen, and that others must find there."""

import random
import socket
from pathlib import Path

_FIRST, _LAST = 20_000, 29_999
"""Above those of well-known servers and of a Kubernetes node, below those that Services get on a node (NodePort)."""
_DRAW = random.SystemRandom()  # of forks of one process, no two draw the same


def free_port(address: str = "127.0.0.1") -> int:
    """One on which nobody listens now, and that the kernel gives to nobody who wishes for none: who connects or binds
    anywhere on this machine may get one of those before the server has begun to listen.
    """
    given = Path("/proc/sys/net/ipv4/ip_local_port_range")
    lowest = int(given.read_text().split()[0]) if given.exists() else 0
    while True:
        wish = _DRAW.randint(_FIRST, min(_LAST, lowest - 1)) if lowest > _FIRST else 0
        with socket.socket() as probe:
            try:
                probe.bind((address, wish))
            except OSError:
                if wish:
                    continue
                raise
            port: int = probe.getsockname()[1]
            return port
