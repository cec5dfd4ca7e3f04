"""The proxy that injects faults."""

import http.client
import threading
from pathlib import Path

import certifi
import pytest
from common.ports import free_port
from controlplane.proxy import Fault, FaultProxy


def test_a_kill_is_not_missed_when_the_api_server_breaks_the_connection() -> None:
    killed = threading.Event()
    proxy = FaultProxy(f"https://127.0.0.1:{free_port()}", Path(certifi.where()))
    proxy.fault = lambda call: Fault(drop="after", then=killed.set)
    try:
        connection = http.client.HTTPConnection(proxy.url.removeprefix("http://"))
        connection.request("DELETE", "/api/v1/namespaces/a/pods/b")
        with pytest.raises((http.client.HTTPException, OSError)):
            connection.getresponse()
        assert killed.is_set()
    finally:
        proxy.close()
