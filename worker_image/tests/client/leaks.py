"""What a process holds on to, to be compared with what it held before."""

import gc
import os
import re
from collections import Counter
from collections.abc import Collection
from pathlib import Path


def descriptors(pid: int | str = "self") -> list[str]:
    """What each descriptor leads to."""
    found = []
    for entry in Path(f"/proc/{pid}/fd").iterdir():
        try:
            found.append(str(entry.readlink()))
        except OSError:
            continue  # the listing's own
    return sorted(found)


def kinds_of(descriptors: list[str]) -> Counter[str]:
    """How many there are of each kind: a pipe or a socket that is made anew has another number."""
    return Counter(re.sub(r"\[\d+\]", "", name) for name in descriptors)


def mounts(below: str) -> list[str]:
    """Mount points in or below a directory."""
    lines = Path("/proc/self/mountinfo").read_text().splitlines()
    return [point for line in lines if (point := line.split()[4]).startswith(below)]


def resident_bytes(pid: int | str = "self") -> int:
    """Without what is shared with others by a file."""
    status = Path(f"/proc/{pid}/status").read_text()
    (found,) = re.findall(r"^RssAnon:\s+(\d+) kB$", status, re.MULTILINE)
    return int(found) * 1024


def threads() -> int:
    return len(os.listdir("/proc/self/task"))  # noqa: PTH208


def objects_of(classes: Collection[type]) -> Counter[str]:
    """How many objects of exactly these classes there are, after a collection."""
    gc.collect()
    return Counter(type(found).__name__ for found in gc.get_objects() if type(found) in classes)
