"""Whether a disk has room, asked before it is needed: what runs out of it half-way says so in many ways, none plain."""

from __future__ import annotations

import shutil
from pathlib import Path

from common.tools import ToolError

GIB = 1 << 30


def ensure_room(directory: Path, gigabytes: float, what: str) -> None:
    """Check that the file system that `directory` is on, or will be, has so many GiB free.

    Raises:
        ToolError: it has not; the text says who wants how much, and what can go.
    """
    place = directory.absolute()
    while not place.exists():
        place = place.parent
    free = shutil.disk_usage(place).free / GIB
    if free < gigabytes:
        raise ToolError(
            f"{what} needs {gigabytes:g} GiB on the disk of {place}, where {free:.1f} are free. `make clean-cluster` "
            "removes the embedded cluster with its images; ~/.cache/vernal can be made again, too."
        )
