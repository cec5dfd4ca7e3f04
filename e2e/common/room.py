"""Whether a disk or the memory has room, asked before it is needed: what runs out of it half-way says so in many ways,
none plain."""

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


def available_memory(meminfo: str) -> float:
    """GiB that programs can still have, in the text of /proc/meminfo: proc(5), MemAvailable."""
    found = next(line.split()[1] for line in meminfo.splitlines() if line.startswith("MemAvailable:"))
    return int(found) * 1024 / GIB


def ensure_memory(gigabytes: float, what: str, instead: str) -> None:
    """Check that programs can still have so many GiB of the machine's memory.

    Raises:
        ToolError: they cannot; the text says who wants how much, and what to do `instead` of making room.
    """
    free = available_memory(Path("/proc/meminfo").read_text())
    if free < gigabytes:
        raise ToolError(
            f"{gigabytes:g} GiB of memory must be available for {what}, and this machine has {free:.1f}: end what uses "
            f"it (`ps aux --sort=-rss` says who), or {instead}"
        )
