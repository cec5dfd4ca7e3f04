"""The machine belongs to the tests that bring a cluster up; one that is up already comes back at the end."""

from collections.abc import Iterator

import pytest
from cluster import layout, leftovers, proc
from cluster.trial import cluster


@pytest.fixture(scope="module")
def nobody_else() -> Iterator[None]:
    default = layout.state_dir()
    was_up = bool(list(proc.owned(str(default))))
    if default.exists():  # not only if it is up: of one that was killed, interfaces and cgroups are still there
        cluster(default, "down")
    yield
    if was_up:
        cluster(default, "up")


@pytest.fixture(scope="module")
def before(nobody_else: None) -> leftovers.Snapshot:
    return leftovers.snapshot()
