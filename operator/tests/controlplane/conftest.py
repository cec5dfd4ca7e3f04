"""A real etcd and kube-apiserver for all tests, with the CRDs and the chart's roles; a case of its own for each.

Tests marked `every_release` run twice: against the newest Kubernetes, and against the oldest that the chart supports.
Those of going to zero have a network and an API server of their own, one for each module.
"""

import itertools
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from cluster import build
from cluster.apiserver import ApiServer
from controlplane import zero_world
from controlplane.cases import Case, Server
from controlplane.collector import Collector
from controlplane.network import own_network
from controlplane.server import prepared
from controlplane.zero import ProcessNode
from controlplane.zero_world import Wakers, World

NEWEST = pytest.param(build.NEWEST, id=pytest.HIDDEN_PARAM)
OLDEST = pytest.param(build.OLDEST, id=f"kubernetes-{build.OLDEST}")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "api" in metafunc.fixturenames:  # which sorts tests by it, so that each server is started once
        both = metafunc.definition.get_closest_marker("every_release") is not None
        metafunc.parametrize("api", [NEWEST, OLDEST] if both else [NEWEST], indirect=True, scope="session")


@pytest.fixture(scope="session")
def api(request: pytest.FixtureRequest) -> Iterator[ApiServer]:
    with ApiServer(release=request.param) as server:
        yield server


@pytest.fixture(scope="session")
def server(api: ApiServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with prepared(api, tmp_path_factory.mktemp("controlplane")) as server:
        yield server


_numbers = itertools.count(1)


@pytest.fixture
def make_case(server: Server) -> Iterator[Callable[..., Case]]:
    with ExitStack() as stack:

        def make(*args: str, **options: Any) -> Case:
            return stack.enter_context(Case(server, f"case-{next(_numbers)}", *args, **options))

        yield make


@pytest.fixture
def case(make_case: Callable[..., Case]) -> Case:
    return make_case()


@pytest.fixture(scope="module")
def network() -> Iterator[None]:
    with own_network():
        yield


@pytest.fixture(scope="module")
def world_server(network: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Server, ProcessNode, Path]]:
    with zero_world.prepared(tmp_path_factory.mktemp("zero")) as found:
        yield found


@pytest.fixture(scope="module")
def collector(network: None) -> Iterator[Collector]:
    with Collector() as found:
        yield found


@pytest.fixture(scope="module")
def wakers(world_server: tuple[Server, ProcessNode, Path], collector: Collector) -> Iterator[Wakers]:
    found = Wakers(world_server[0], collector.environment())
    yield found
    found.end()


@pytest.fixture
def world(world_server: tuple[Server, ProcessNode, Path], wakers: Wakers, collector: Collector) -> Iterator[World]:
    with zero_world.at_zero(*world_server, wakers, collector) as found:
        yield found
