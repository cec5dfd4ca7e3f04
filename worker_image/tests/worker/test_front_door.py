"""A thawed worker's front door, with clients as nobody wants them."""

import socket
from collections.abc import Callable

from vernal_contract import names
from worker_pod import Pod

Thawed = Callable[..., Pod]


def burst(pod: Pod, count: int, port: int = names.PORT_SERVING) -> list[socket.socket]:
    """Connections that send nothing."""
    return [pod.connect(port) for _ in range(count)]


def test_a_burst_of_connections_does_not_cut_the_supervisor_off(thawed: Thawed) -> None:
    """More than the 1,024 descriptors that the engine may have (`first_workers`), on both ports."""
    pod = thawed()
    expected = pod.complete()
    idle = burst(pod, 1100) + burst(pod, 1100, names.PORT_ADMIN)
    assert pod.admin("/readyz")[0] == pod.admin("/livez")[0] == 200
    assert pod.complete() == expected
    assert b"vernal_http_connections " in pod.admin("/metrics")[1]
    pod.signal()
    assert pod.wait() == 0, pod.log()
    for connection in idle:
        connection.close()
