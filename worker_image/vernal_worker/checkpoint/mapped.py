"""Which parts of the files that processes have mapped, libraries mostly, a restore needs: see `reading_ahead`."""

import bisect
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from vernal_worker.checkpoint.images import Entry, read_pagemap
from vernal_worker.checkpoint.procfs import FileArea, used
from vernal_worker.checkpoint.reading_ahead import MappedFile
from vernal_worker.checkpoint.taken import PAGE
from vernal_worker.checkpoint.wire import UnknownFormatError

_HEAD = PAGE
"""Where CRIU looks for the build ID."""

_GAP = 64 << 10
"""Ranges that are closer to each other are read as one."""


def collect(images: Path, areas: Mapping[int, Sequence[FileArea]]) -> tuple[MappedFile, ...]:
    """What CRIU will look at when it restores from the directory `images`; `areas`: what was mapped, by process."""
    wanted: dict[str, list[tuple[int, int]]] = {}
    for pid, mapped in areas.items():
        try:
            _, entries = read_pagemap((images / f"pagemap-{pid}.img").read_bytes())
        except (UnknownFormatError, FileNotFoundError):
            entries = []
        for area in mapped:
            wanted.setdefault(area.path, [(0, _HEAD)]).extend(changed(area, entries))
    return _files(wanted)


def code(areas: Mapping[int, Sequence[FileArea]]) -> tuple[MappedFile, ...]:
    """What processes, which may run, have used of the programs and libraries that they have mapped. Other files are
    left out: one of them may be a model."""
    programs = {area.path for mapped in areas.values() for area in mapped if area.executable}
    wanted: dict[str, list[tuple[int, int]]] = {}
    for pid, mapped in areas.items():
        for area in mapped:
            if area.path in programs:
                wanted.setdefault(area.path, []).extend(used(pid, area))
    return _files(wanted)


def _files(wanted: Mapping[str, list[tuple[int, int]]]) -> tuple[MappedFile, ...]:
    """Devices are left out: to open one may do something."""
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
