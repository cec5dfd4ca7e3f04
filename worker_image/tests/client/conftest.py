"""One checkpoint, made by the program in the library's README; every other test thaws it."""

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parent))  # for the helpers beside this
from programs import Frozen, freeze_with_readme, small

_WITHOUT_VLLM = {"test_api.py", "test_arguments.py", "test_gate.py", "test_keeper.py", "test_settings.py"}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = Path(__file__).parent
    for item in items:
        if item.path.is_relative_to(here) and item.path.name not in _WITHOUT_VLLM:
            item.add_marker(pytest.mark.integration)


@pytest.fixture(scope="session")
def environment() -> Iterator[None]:
    if os.geteuid() != 0:
        pytest.fail("these tests need root: they make namespaces and freeze processes")
    with pytest.MonkeyPatch.context() as patch:
        for name, value in small().items():
            patch.setenv(name, value)
        yield


@pytest.fixture(scope="session")
def frozen(environment: None, tmp_path_factory: pytest.TempPathFactory) -> Frozen:
    """What the README's program left: its checkpoint and its answer."""
    from models.tiny import make_tiny_model

    place = tmp_path_factory.mktemp("library")
    make_tiny_model(place / "model")
    return freeze_with_readme(place)
