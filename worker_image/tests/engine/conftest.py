"""An HTTP server for each test that asks for one."""

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent))  # for served
from served import Served


@pytest.fixture
def serve() -> Iterator[Callable[..., Served]]:
    servers: list[Served] = []

    def start(**settings: Any) -> Served:
        servers.append(Served(**settings))
        return servers[-1]

    yield start
    for server in servers:
        server.call(server.app.finish.set)
        server.wait(server.http.close(5))
        server.loop.call_soon_threadsafe(server.loop.stop)


@pytest.fixture
def served(serve: Callable[..., Served]) -> Served:
    return serve()
