"""Taking out of CRIU's images what need not come back through CRIU: pages of zeros, and large anonymous memory.

CRIU writes every page that a process has touched, and much of what CUDA saves of a GPU is zeros: a third of vLLM's
image. A page of private anonymous memory that is not in an image comes back as zeros anyway, when it is first used.
Large areas go to files of their own, from which `memory` fills them with many threads, while CRIU reads the pages of a
process on one. Where it costs no memory, areas come back as huge pages: one page fault instead of 512. The format:
https://criu.org/Images, images/pagemap.proto, mm.proto and vma.proto.
"""

import bisect
import itertools
import mmap
import os
from collections.abc import Callable, Collection, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from vernal_worker.checkpoint import wire
from vernal_worker.checkpoint.taken import MEMORY, PAGE, Memory
from vernal_worker.checkpoint.wire import UnknownFormatError

_PAGEMAP_MAGIC, _MM_MAGIC = 0x56084025, 0x57492820
_MM_VMAS = 14  # numbers of fields, here and below
_VMA_START, _VMA_END, _VMA_PROTECTION, _VMA_FLAGS, _VMA_STATUS, _VMA_ADVISED = 1, 2, 5, 6, 7, 9
_MAP_GROWSDOWN = 0x100
_HUGE = 1 << mmap.MADV_HUGEPAGE
_HUGE_PAGES = Path("/sys/kernel/mm/transparent_hugepage")
_ANON_PRIVATE, _HEAP, _REGULAR = 1 << 9, 1 << 5, 1 << 0  # VMA_AREA_*, criu/include/image.h
_HEAD_PAGES_ID = 1
_ENTRY_ADDRESS, _ENTRY_OLD_PAGES, _ENTRY_FLAGS, _ENTRY_PAGES = 1, 2, 4, 5
_LAZY, _PRESENT = 1 << 1, 1 << 2  # PE_*: "may be restored lazily" and "is in the file of pages"
_ZEROS = bytes(PAGE)
_BLOCK = 64  # pages that are compared at once
_ZERO_BLOCK = bytes(_BLOCK * PAGE)

LARGE = (1 << 20) // PAGE
"""An area with so many pages is taken out."""
_HUGE_CONTENT = (4 << 20) // PAGE
_HUGE_DENSITY = 0.9
_HUGE_ZEROS = (16 << 20) // PAGE


@dataclass(frozen=True)
class Entry:
    """`pages` pages at `address`, the next ones in the file of pages."""

    address: int
    pages: int
    flags: int = _PRESENT


@dataclass(frozen=True)
class Area:
    """Private anonymous memory of a process without any other peculiarity, from `start` to `end`."""

    start: int
    end: int
    fillable: bool
    """Another process may write there."""

    @property
    def pages(self) -> int:
        return (self.end - self.start) // PAGE


def take_out(images: Path, files: Path, tick: Callable[[], None]) -> tuple[Memory, ...]:
    """Take zeros and large areas out of every process's image in the directory `images`. One that is not as expected is
    left as it is.

    `files` is the directory for the files of memory. `tick` is called now and then and may raise to give up.

    Raises:
        OSError: a directory cannot be read or written.
    """
    pids = sorted(int(path.stem.partition("-")[2]) for path in images.glob("mm-*.img"))
    with ThreadPoolExecutor(max(1, min(len(pids), 4))) as pool:
        found = pool.map(lambda pid: _take_out(images, pid, files / MEMORY.replace("*", str(pid)), tick), pids)
        return tuple(memory for memory in found if memory is not None)


def _take_out(images: Path, pid: int, file: Path, tick: Callable[[], None]) -> Memory | None:
    pagemap, mm = images / f"pagemap-{pid}.img", images / f"mm-{pid}.img"
    try:
        pages_id, entries = read_pagemap(pagemap.read_bytes())
        areas = anonymous_areas(mm.read_bytes())
    except (UnknownFormatError, FileNotFoundError):
        return None
    pages = images / f"pages-{pages_id}.img"
    size = pages.stat().st_size
    if not size or size != PAGE * sum(entry.pages for entry in entries):
        return None
    touched = _counter(entries)
    large = {area for area in areas if area.fillable and touched(area) >= LARGE}
    kept: list[Entry] = []
    taken: list[Entry] = []
    new = pages.with_suffix(".new")
    with (
        pages.open("rb") as source,
        mmap.mmap(source.fileno(), 0, prot=mmap.PROT_READ) as data,
        _writer(new) as rest,
        _writer(file) as out,
    ):
        for entry, offset, area in _with_content(data, entries, areas):
            tick()
            target, there = (out, taken) if area in large else (rest, kept)
            there.append(entry)
            _copy(source.fileno(), target.fileno(), offset, entry.pages * PAGE)
    pagemap.write_bytes(write_pagemap(pages_id, kept))
    new.replace(pages)
    if _HUGE_PAGES.exists():  # else the kernel would refuse, and CRIU give up
        content, here = _counter(sorted(kept + taken, key=lambda entry: entry.address)), mm.read_bytes()
        huge = {area.start for area in areas if _worth_huge_pages(area, touched(area), content(area), area in large)}
        mm.write_bytes(advise_huge(here, huge))
    if not taken:
        file.unlink()
        return None
    return Memory(pid=pid, file=file.name, runs=tuple((entry.address, entry.pages) for entry in taken))


def _writer(path: Path) -> BinaryIO:
    return os.fdopen(os.open(path, os.O_CREAT | os.O_TRUNC | os.O_WRONLY | os.O_CLOEXEC, 0o600), "wb", buffering=0)


def _worth_huge_pages(area: Area, touched: int, content: int, large: bool) -> bool:
    """It takes no more memory than before, or little more: it was full of zeros, or it is nearly full."""
    full = large and content >= _HUGE_CONTENT and content >= _HUGE_DENSITY * area.pages
    return full or touched - content >= _HUGE_ZEROS


def _counter(entries: list[Entry]) -> Callable[[Area], int]:
    """A function that says how many pages of the entries, which are in order, are in an area."""
    addresses = [entry.address for entry in entries]
    totals = list(itertools.accumulate((entry.pages for entry in entries), initial=0))

    def below(address: int) -> int:
        number = bisect.bisect_right(addresses, address)
        if not number:
            return 0
        last = entries[number - 1]
        return totals[number - 1] + min(last.pages, (address - last.address) // PAGE)

    return lambda area: below(area.end) - below(area.start)


def _with_content(data: mmap.mmap, entries: list[Entry], areas: list[Area]) -> Iterator[tuple[Entry, int, Area | None]]:
    """What is left of the entries without zeros, each with its offset in the old file of pages and its area."""
    offset = 0
    for entry in entries:
        for part, area in split(entry, areas):
            if area is None:
                yield part, offset, None
            else:
                for first, count in runs_with_content(data, offset, part.pages):
                    yield Entry(part.address + first * PAGE, count, part.flags), offset + first * PAGE, area
            offset += part.pages * PAGE


def split(entry: Entry, areas: list[Area]) -> Iterator[tuple[Entry, Area | None]]:
    """The parts of an entry, which may reach from one area into the next, with the area of each. Areas are in order."""
    address, end = entry.address, entry.address + entry.pages * PAGE
    number = bisect.bisect_right(areas, address, key=lambda area: area.end)
    while address < end:
        area = areas[number] if number < len(areas) else None
        if area is None or address < area.start:
            stop, inside = min(end, area.start) if area else end, None
        else:
            stop, inside = min(end, area.end), area
            number += 1
        yield Entry(address, (stop - address) // PAGE, entry.flags), inside
        address = stop


def runs_with_content(data: mmap.mmap | bytes, offset: int, pages: int) -> Iterator[tuple[int, int]]:
    """Runs of pages, first and count, of the `pages` pages at `offset` that are not all zeros."""
    start = None
    page = 0
    while page < pages:
        at = offset + page * PAGE
        zero, step = not data[at] and data[at : at + PAGE] == _ZEROS, 1  # most pages are told by their first byte
        if zero and pages - page >= _BLOCK and data[at : at + _BLOCK * PAGE] == _ZERO_BLOCK:
            step = _BLOCK
        if zero and start is not None:
            yield start, page - start
            start = None
        elif not zero and start is None:
            start = page
        page += step
    if start is not None:
        yield start, pages - start


def read_pagemap(data: bytes) -> tuple[int, list[Entry]]:
    """The number of the file of pages, and what is in it.

    Raises:
        UnknownFormatError: also if an entry is not plain, such as one in a parent image.
    """
    head, *rest = wire.messages(data, _PAGEMAP_MAGIC)
    entries = []
    for message in rest:
        known = wire.integers(message)
        if known.keys() != {_ENTRY_ADDRESS, _ENTRY_OLD_PAGES, _ENTRY_FLAGS, _ENTRY_PAGES} or known[_ENTRY_OLD_PAGES]:
            raise UnknownFormatError
        if known[_ENTRY_FLAGS] & ~_LAZY != _PRESENT:
            raise UnknownFormatError
        entries.append(Entry(known[_ENTRY_ADDRESS], known[_ENTRY_PAGES], known[_ENTRY_FLAGS]))
    return wire.integers(head)[_HEAD_PAGES_ID], entries


def write_pagemap(pages_id: int, entries: list[Entry]) -> bytes:
    """What `read_pagemap` reads."""

    def message(entry: Entry) -> bytes:
        values = (
            (_ENTRY_ADDRESS, entry.address),
            (_ENTRY_OLD_PAGES, 0),
            (_ENTRY_FLAGS, entry.flags),
            (_ENTRY_PAGES, entry.pages),
        )
        return b"".join(wire.field(number, value) for number, value in values)

    return wire.image(_PAGEMAP_MAGIC, [wire.field(_HEAD_PAGES_ID, pages_id), *map(message, entries)])


def anonymous_areas(mm: bytes) -> list[Area]:
    """Private anonymous memory of a process without any other peculiarity, by address.

    Raises:
        UnknownFormatError.
    """
    areas: list[Area] = []
    for message in wire.messages(mm, _MM_MAGIC):
        for number, value in wire.fields(message):
            if number == _MM_VMAS and isinstance(value, bytes):
                vma = wire.integers(value)
                if vma.get(_VMA_STATUS, 0) & ~_HEAP == _ANON_PRIVATE | _REGULAR:
                    writable = vma.get(_VMA_PROTECTION, 0) & mmap.PROT_WRITE
                    fillable = bool(writable) and not vma.get(_VMA_FLAGS, 0) & _MAP_GROWSDOWN
                    areas.append(Area(vma[_VMA_START], vma[_VMA_END], fillable))
    return sorted(areas, key=lambda area: area.start)


def advise_huge(mm: bytes, starts: Collection[int]) -> bytes:
    """The same, but for the areas that start there CRIU asks the kernel for huge pages (madvise(2)).

    Raises:
        UnknownFormatError.
    """

    def area(value: int | bytes) -> int | bytes:
        assert isinstance(value, bytes)
        known = dict(wire.fields(value))
        if known[_VMA_START] not in starts:
            return value
        before = known.get(_VMA_ADVISED, 0)
        assert isinstance(before, int)
        return b"".join(wire.field(*each) for each in sorted((known | {_VMA_ADVISED: before | _HUGE}).items()))

    def advised(message: bytes) -> bytes:
        every = ((number, area(value) if number == _MM_VMAS else value) for number, value in wire.fields(message))
        return b"".join(wire.field(*each) for each in every)

    return wire.image(_MM_MAGIC, map(advised, wire.messages(mm, _MM_MAGIC)))


def _copy(source: int, target: int, offset: int, length: int) -> None:
    while length:
        sent = os.sendfile(target, source, offset, length)
        offset, length = offset + sent, length - sent
