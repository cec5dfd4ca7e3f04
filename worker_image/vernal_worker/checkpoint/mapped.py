"""Reading ahead what a restore needs: of the files that processes have mapped, libraries mostly, and others.

CRIU looks into each mapped file, one after the other, and lays a process's changed pages over the file's, for which the
kernel reads the unchanged ones first. Then the processes run, and need code. From a disk, one small read after the
other, that takes longer than everything else.
"""

import bisect
import os
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path

import msgspec

from vernal_worker.checkpoint.images import PAGE, Entry, read_pagemap
from vernal_worker.checkpoint.procfs import FileArea, used
from vernal_worker.checkpoint.wire import UnknownFormatError
from vernal_worker.parallel import for_each

_HEAD = PAGE
"""Where CRIU looks for the build ID."""

_GAP = 64 << 10
"""Ranges that are closer to each other are read as one."""

_STEP = 8 << 20
"""Bytes that are asked for at once where others' reads must not wait long."""

_AT_ONCE = 128 << 10
"""Bytes of one call: of more the kernel may read only what the device reads ahead (read_ahead_kb, 128 by default)."""

_THREADS = 8


class MappedFile(msgspec.Struct, frozen=True, array_like=True):
    """What to read of a file: offsets and lengths in bytes."""

    path: str
    ranges: tuple[tuple[int, int], ...]


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


def read_ahead(now: Sequence[MappedFile], later: Sequence[MappedFile] = ()) -> None:
    """Let the kernel read, and return at once. What cannot be read is left for others to complain about.

    `later` is asked for little by little, so that small reads that somebody waits for do not stand behind it.
    """

    def run() -> None:
        for_each(now, _ask, _THREADS, lambda: None)
        asked = 0
        for file in later:
            asked = _ask_slowly(file, asked)

    threading.Thread(target=run, name="read-ahead", daemon=True).start()


def _ask(file: MappedFile) -> None:
    with suppress(OSError), ExitStack() as stack:
        fd, end = _open(file, stack)
        for offset, length in file.ranges:
            _will_need(fd, offset, min(length, end - offset))


def _ask_slowly(file: MappedFile, asked: int) -> int:
    """`asked`: bytes that were asked for and not waited for yet; returns the same."""
    with suppress(OSError), ExitStack() as stack:
        fd, end = _open(file, stack)
        for start, size in file.ranges:
            stop = min(start + size, end)
            for offset in range(start, stop, _STEP):
                length = min(_STEP, stop - offset)
                _will_need(fd, offset, length)
                asked += length
                if asked >= _STEP:
                    os.pread(fd, 1, offset + length - 1)
                    asked = 0
    return asked


def _open(file: MappedFile, stack: ExitStack) -> tuple[int, int]:
    """A descriptor and the file's size: a list may say more. Raises: OSError: also of what is no file (any more)."""
    if not Path(file.path).is_file():  # to open a device may do something
        raise FileNotFoundError(file.path)
    fd = os.open(file.path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    stack.callback(os.close, fd)
    return fd, os.fstat(fd).st_size


def _will_need(fd: int, start: int, size: int) -> None:
    """Whatever is there already: one page that somebody has read says nothing of the next, and to ask costs nothing."""
    for offset in range(start, start + size, _AT_ONCE):
        os.posix_fadvise(fd, offset, min(_AT_ONCE, start + size - offset), os.POSIX_FADV_WILLNEED)
