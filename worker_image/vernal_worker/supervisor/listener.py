"""Listening TCP sockets."""

import socket


def open_listener(port: int, backlog: int) -> socket.socket:
    """A listening TCP socket on all interfaces, IPv4 and, where the host has it, IPv6.

    Raises:
        OSError: the port is taken.
    """
    if socket.has_dualstack_ipv6():
        try:
            return socket.create_server(("", port), family=socket.AF_INET6, dualstack_ipv6=True, backlog=backlog)
        except OSError:
            pass  # IPv6 is compiled in and switched off; a taken port fails again below
    return socket.create_server(("", port), backlog=backlog)
