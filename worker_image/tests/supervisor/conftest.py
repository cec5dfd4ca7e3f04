"""What tests of a node's cache share."""

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest


@pytest.fixture
def place() -> Iterator[Path]:
    """On tmpfs, which has room: a cache leaves a part of its disk to others, and the machine's may be full so far."""
    path = Path(tempfile.mkdtemp(dir="/dev/shm", prefix="vernal-test-"))
    yield path
    shutil.rmtree(path)
