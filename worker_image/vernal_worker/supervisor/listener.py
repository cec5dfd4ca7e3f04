"""Listening TCP sockets."""

import socket


def bind(port: int) -> socket.socket:
    """A TCP socket on all interfaces, IPv4 and, where the host has it, IPv6. Nobody listens on it yet: so that whoever
    connects is refused until somebody answers.

    Raises:
        OSError: the port is taken.
    """
    if socket.has_dualstack_ipv6():
        try:
            return _bound(socket.AF_INET6, port)
        except OSError:
            pass  # IPv6 is compiled in and switched off; a taken port fails again below
    return _bound(socket.AF_INET, port)


def _bound(family: socket.AddressFamily, port: int) -> socket.socket:
    found = socket.socket(family, socket.SOCK_STREAM)
    try:
        found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # connections of a container before this one linger
        if family == socket.AF_INET6:
            found.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        found.bind(("", port))
    except OSError:
        found.close()
        raise
    return found
