"""Where all lives that can be made again."""

from __future__ import annotations

import os
from pathlib import Path


def cache_dir() -> Path:
    """`VERNAL_CACHE`, or `vernal` in the user's cache directory."""
    if own := os.environ.get("VERNAL_CACHE"):
        return Path(own).absolute()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache").absolute() / "vernal"
