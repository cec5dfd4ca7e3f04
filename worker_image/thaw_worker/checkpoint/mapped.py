"""Reading ahead what a restore needs, such as the files that processes have mapped: libraries, mostly.

CRIU looks into each of them, one after the other, and lays a process's changed pages over theirs, for which the kernel
reads the unchanged ones first. Then the processes run, and need code. From a disk, one small read after the other, that
takes longer than everything else.
"""

import bisect
import os
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import msgspec

from thaw_worker.checkpoint.images import PAGE, Entry, UnknownFormatError, read_pagemap
from thaw_worker.checkpoint.pagecache import cached
from thaw_worker.checkpoint.procfs import FileArea, used
from thaw_worker.parallel import for_each

_HEAD = PAGE
"""Where CRIU looks for the build ID."""

_GAP = 64 << 10
"""Ranges that are closer to each other are read as one."""

_STEP = 16 << 20
"""Bytes that are asked for at once, if the first of them is not in memory yet."""

_THREADS = 8


class MappedFile(msgspec.Struct, frozen=True, array_like=True):
    """What to read of a file: offsets and lengths in bytes."""

    path: str
    ranges: tuple[tuple[int, int], ...]


def collect(images: Path, areas: Mapping[int, Sequence[FileArea]]) -> tuple[MappedFile, ...]:
    """What to read ahead for a restore from the directory `images`; `areas`: what processes that may run have mapped.
    Devices are left alone: to open one may do something. So is data that is no part of a program, such as a model."""
    programs = {area.path for mapped in areas.values() for area in mapped if area.executable}
    wanted: dict[str, list[tuple[int, int]]] = {}
    for pid, mapped in areas.items():
        try:
            _, entries = read_pagemap((images / f"pagemap-{pid}.img").read_bytes())
        except (UnknownFormatError, FileNotFoundError):
            entries = []
        for area in mapped:
            ranges = wanted.setdefault(area.path, [(0, _HEAD)])
            ranges.extend(changed(area, entries))
            if area.path in programs:
                ranges.extend(used(pid, area))
    return tuple(
        MappedFile(path, tuple(join(ranges))) for path, ranges in sorted(wanted.items()) if Path(path).is_file()
    )


def changed(area: FileArea, entries: Sequence[Entry]) -> Iterator[tuple[int, int]]:
    """Offsets and lengths of what has pages of its own in the image of a process. Entries are in order."""
    first = bisect.bisect_right(entries, area.start, key=lambda entry: entry.address) - 1
    for number in range(max(first, 0), len(entries)):
        entry = entries[number]
        if entry.address >= area.end:
            return
        start, end = max(area.start, entry.address), min(area.end, entry.address + entry.pages * PAGE)
        if start < end:
            yield area.offset + start - area.start, end - start


def join(ranges: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    """The same in order, without overlaps and small gaps."""
    joined: list[tuple[int, int]] = []
    for offset, length in sorted(ranges):
        if joined and offset <= sum(joined[-1]) + _GAP:
            first = joined[-1][0]
            joined[-1] = (first, max(sum(joined[-1]), offset + length) - first)
        else:
            joined.append((offset, length))
    return joined


def read_ahead(files: Sequence[MappedFile]) -> None:
    """Let the kernel read, and return at once. What cannot be read is left for CRIU to complain about."""
    threading.Thread(
        target=for_each, args=[files, _read_ahead, _THREADS, lambda: None], name="read-ahead", daemon=True
    ).start()


def _read_ahead(file: MappedFile) -> None:
    with suppress(OSError):
        fd = os.open(file.path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        try:
            for start, length in file.ranges:
                for offset in range(start, start + length, _STEP):
                    if not cached(fd, offset):
                        step = min(_STEP, start + length - offset)
                        os.posix_fadvise(fd, offset, step, os.POSIX_FADV_WILLNEED)
        finally:
            os.close(fd)
