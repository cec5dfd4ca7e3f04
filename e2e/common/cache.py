"""Where all lives that can be made again."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

from common.lock import locked
from common.progress import step


def cache_dir() -> Path:
    """`VERNAL_CACHE`, or `vernal` in the user's cache directory."""
    if own := os.environ.get("VERNAL_CACHE"):
        return Path(own).absolute()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache").absolute() / "vernal"


def made_once(directory: Path, what: str, make: Callable[[Path], None]) -> Path:
    """`directory`, which is there whole or not at all: `make` makes it under another name. One run at a time does; what
    one that was killed has left goes first. `what` is told, such as "bringing CRIU to the cache (15 s)".

    Raises: as `make`.
    """
    if not directory.exists():
        with locked(directory, what):
            if not directory.exists():
                new = directory.with_name(f"{directory.name}.new")
                shutil.rmtree(new, ignore_errors=True)
                with step(what):
                    make(new)
                new.rename(directory)
    return directory
