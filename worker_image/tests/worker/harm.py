"""Copies of a store in which something was changed."""

import shutil
from collections.abc import Callable
from pathlib import Path

BIG_FILE = "process/criu/pages-1.img"


def damage(store: Path, copy: Path, file: str, change: Callable[[bytearray], None]) -> Path:
    """A copy of `store` in which one file of the artifact is changed."""
    shutil.copytree(store, copy, symlinks=True)
    (path,) = copy.glob(f"artifacts/*/*/current/{file}")
    data = bytearray(path.read_bytes())
    change(data)
    path.write_bytes(data)
    return copy


def flip_a_bit(data: bytearray) -> None:
    data[len(data) // 2] ^= 1
