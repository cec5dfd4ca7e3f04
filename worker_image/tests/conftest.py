"""For all tests of workers."""

import sys
from collections.abc import Iterator

import pytest
from patience import GUARD_SECONDS

_GIVING_BACK = ("vernal_worker.store.lease", "vernal_worker.store.reading", "vernal_worker.bucket.lease")


@pytest.fixture(autouse=True, scope="session")
def what_is_given_back_is_gone() -> Iterator[None]:
    """A worker that ends says nothing of a lease that it could not give back within seconds. Who holds one decides
    these tests, and storage is slow behind another's gigabytes."""
    with pytest.MonkeyPatch.context() as patch:
        for name in _GIVING_BACK:
            if name in sys.modules:
                patch.setattr(sys.modules[name], "_RELEASE_SECONDS", GUARD_SECONDS)
        yield
