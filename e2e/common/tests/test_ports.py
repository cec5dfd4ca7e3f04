"""A port that is given is not one that the kernel may give to somebody else meanwhile."""

import socket
from pathlib import Path

from common.ports import free_port


def test_it_is_not_among_those_that_anybody_may_get() -> None:
    lowest = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    ports = {free_port() for _ in range(20)}
    assert len(ports) > 1 and max(ports) < lowest


def test_nobody_listens_there() -> None:
    with socket.create_server(("127.0.0.1", free_port())) as taken:
        port = taken.getsockname()[1]
        assert all(free_port() != port for _ in range(20))
