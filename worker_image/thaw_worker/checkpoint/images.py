"""Taking pages of zeros out of CRIU's images.

CRIU writes every page that a process has touched, and much of what CUDA saves of a GPU is zeros: a third of vLLM's
image, and restoring takes as long as reading it. A page of private anonymous memory that is not in an image comes back
as zeros anyway, when it is first used. Where there are many, they come as huge pages, one page fault instead of 512, in
an area of which as much was in use before. Format: https://criu.org/Images, images/pagemap.proto, mm.proto, vma.proto.
"""

import bisect
import itertools
import mmap
import os
import struct
from collections.abc import Callable, Collection, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

PAGE = 4096
_MAGIC = 0x54564319  # IMG_COMMON_MAGIC
_PAGEMAP_MAGIC, _MM_MAGIC = 0x56084025, 0x57492820
_MM_VMAS, _VMA_START, _VMA_END, _VMA_STATUS, _VMA_MADVISED = 14, 1, 2, 7, 9  # numbers of fields
_HUGE = 1 << mmap.MADV_HUGEPAGE
_HUGE_PAGES = Path("/sys/kernel/mm/transparent_hugepage")
_MANY_ZEROS = 16 << 20  # bytes in one area
_ANON_PRIVATE, _HEAP, _REGULAR = 1 << 9, 1 << 5, 1 << 0  # VMA_AREA_*, criu/include/image.h
_HEAD_PAGES_ID = 1
_ENTRY_ADDRESS, _ENTRY_OLD_PAGES, _ENTRY_FLAGS, _ENTRY_PAGES = 1, 2, 4, 5
_LAZY, _PRESENT = 1 << 1, 1 << 2  # PE_*: "may be restored lazily" and "is in the file of pages"
_ZEROS = bytes(PAGE)
_BLOCK = 64  # pages that are compared at once
_ZERO_BLOCK = bytes(_BLOCK * PAGE)


class UnknownFormatError(Exception):
    """An image is not as this module knows it."""


@dataclass(frozen=True)
class Entry:
    """`pages` pages at `address`, the next ones in the file of pages."""

    address: int
    pages: int
    flags: int = _PRESENT


def drop_zeros(images: Path, tick: Callable[[], None]) -> int:
    """Take pages of zeros out of every process's image in the directory `images`; returns the bytes saved. What is not
    as expected is left as it is.

    `tick` is called now and then and may raise to give up.

    Raises:
        OSError: the directory cannot be read or written.
    """
    pids = [int(path.stem.partition("-")[2]) for path in images.glob("mm-*.img")]
    with ThreadPoolExecutor(max(1, min(len(pids), 4))) as pool:
        return sum(pool.map(lambda pid: _drop_zeros(images, pid, tick), sorted(pids)))


def _drop_zeros(images: Path, pid: int, tick: Callable[[], None]) -> int:
    pagemap = images / f"pagemap-{pid}.img"
    mm = images / f"mm-{pid}.img"
    try:
        pages_id, entries = read_pagemap(pagemap.read_bytes())
        areas = anonymous_areas(mm.read_bytes())
    except (UnknownFormatError, FileNotFoundError):
        return 0
    pages = images / f"pages-{pages_id}.img"
    size = pages.stat().st_size
    if not size or size != PAGE * sum(entry.pages for entry in entries):
        return 0
    new = pages.with_suffix(".new")
    kept: list[Entry] = []
    with pages.open("rb") as source, mmap.mmap(source.fileno(), 0, prot=mmap.PROT_READ) as data:
        target = os.open(new, os.O_CREAT | os.O_TRUNC | os.O_WRONLY | os.O_CLOEXEC, 0o600)
        try:
            for entry, offset in _kept(data, entries, _joined(areas)):
                tick()
                kept.append(entry)
                _copy(source.fileno(), target, offset, entry.pages * PAGE)
        finally:
            os.close(target)
    saved = size - new.stat().st_size
    pagemap.write_bytes(write_pagemap(pages_id, kept))
    new.replace(pages)
    if _HUGE_PAGES.exists():  # else the kernel would refuse, and CRIU give up
        before, after = _counter(entries), _counter(kept)
        zeros = {area: (before(*area) - after(*area)) * PAGE for area in areas}
        mm.write_bytes(
            advise_huge(mm.read_bytes(), {start for (start, _), size in zeros.items() if size >= _MANY_ZEROS})
        )
    return saved


def _counter(entries: list[Entry]) -> Callable[[int, int], int]:
    """A function that says how many pages of the entries, which are in order, lie between two addresses."""
    addresses = [entry.address for entry in entries]
    totals = list(itertools.accumulate((entry.pages for entry in entries), initial=0))

    def below(address: int) -> int:
        number = bisect.bisect_right(addresses, address)
        if not number:
            return 0
        last = entries[number - 1]
        return totals[number - 1] + min(last.pages, (address - last.address) // PAGE)

    return lambda start, end: below(end) - below(start)


def _kept(data: mmap.mmap, entries: list[Entry], droppable: list[tuple[int, int]]) -> Iterator[tuple[Entry, int]]:
    """What is left of the entries, each with its offset in the old file of pages."""
    offset = 0
    starts = [start for start, _ in droppable]
    for entry in entries:
        area = bisect.bisect_right(starts, entry.address) - 1
        if area >= 0 and entry.address + entry.pages * PAGE <= droppable[area][1]:
            for first, count in runs_with_content(data, offset, entry.pages):
                yield Entry(entry.address + first * PAGE, count, entry.flags), offset + first * PAGE
        else:
            yield entry, offset
        offset += entry.pages * PAGE


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
    head, *messages = _messages(data, _PAGEMAP_MAGIC)
    entries = []
    for message in messages:
        fields = _integers(message)
        if fields.keys() != {_ENTRY_ADDRESS, _ENTRY_OLD_PAGES, _ENTRY_FLAGS, _ENTRY_PAGES} or fields[_ENTRY_OLD_PAGES]:
            raise UnknownFormatError
        if fields[_ENTRY_FLAGS] & ~_LAZY != _PRESENT:
            raise UnknownFormatError
        entries.append(Entry(fields[_ENTRY_ADDRESS], fields[_ENTRY_PAGES], fields[_ENTRY_FLAGS]))
    return _integers(head)[_HEAD_PAGES_ID], entries


def write_pagemap(pages_id: int, entries: list[Entry]) -> bytes:
    """What `read_pagemap` reads."""
    parts = [struct.pack("<II", _MAGIC, _PAGEMAP_MAGIC), _framed(_field(_HEAD_PAGES_ID, pages_id))]
    for entry in entries:
        fields = (
            (_ENTRY_ADDRESS, entry.address),
            (_ENTRY_OLD_PAGES, 0),
            (_ENTRY_FLAGS, entry.flags),
            (_ENTRY_PAGES, entry.pages),
        )
        parts.append(_framed(b"".join(_field(number, value) for number, value in fields)))
    return b"".join(parts)


def anonymous_areas(mm: bytes) -> list[tuple[int, int]]:
    """Start and end of what is private anonymous memory of a process and has no other peculiarity, by address.

    Raises:
        UnknownFormatError.
    """
    areas: list[tuple[int, int]] = []
    for message in _messages(mm, _MM_MAGIC):
        for number, value in _fields(message):
            if number == _MM_VMAS and isinstance(value, bytes):
                area = _integers(value)
                if area.get(_VMA_STATUS, 0) & ~_HEAP == _ANON_PRIVATE | _REGULAR:
                    areas.append((area[_VMA_START], area[_VMA_END]))
    return sorted(areas)


def _joined(areas: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """An entry may reach from one area into the next."""
    joined: list[tuple[int, int]] = []
    for start, end in areas:
        if joined and joined[-1][1] == start:
            joined[-1] = (joined[-1][0], end)
        else:
            joined.append((start, end))
    return joined


def advise_huge(mm: bytes, starts: Collection[int]) -> bytes:
    """The same, but for the areas that start there CRIU asks the kernel for huge pages (madvise(2)).

    Raises:
        UnknownFormatError.
    """

    def area(value: int | bytes) -> int | bytes:
        assert isinstance(value, bytes)
        fields = dict(_fields(value))
        if fields[_VMA_START] not in starts:
            return value
        advised = fields.get(_VMA_MADVISED, 0)
        assert isinstance(advised, int)
        return b"".join(_field(*field) for field in sorted((fields | {_VMA_MADVISED: advised | _HUGE}).items()))

    parts = [struct.pack("<II", _MAGIC, _MM_MAGIC)]
    for message in _messages(mm, _MM_MAGIC):
        fields = ((number, area(value) if number == _MM_VMAS else value) for number, value in _fields(message))
        parts.append(_framed(b"".join(_field(*field) for field in fields)))
    return b"".join(parts)


def _copy(source: int, target: int, offset: int, length: int) -> None:
    while length:
        sent = os.sendfile(target, source, offset, length)
        offset, length = offset + sent, length - sent


def _messages(data: bytes, magic: int) -> list[bytes]:
    if data[:8] != struct.pack("<II", _MAGIC, magic):
        raise UnknownFormatError
    messages, at = [], 8
    while at < len(data):
        (size,) = struct.unpack_from("<I", data, at)
        messages.append(data[at + 4 : at + 4 + size])
        at += 4 + size
    if not messages:
        raise UnknownFormatError
    return messages


# --- protobuf's wire format (https://protobuf.dev/programming-guides/encoding) ---


def _fields(message: bytes) -> Iterator[tuple[int, int | bytes]]:
    at = 0
    while at < len(message):
        tag, at = _varint(message, at)
        value: int | bytes
        if tag & 7 == 0:
            value, at = _varint(message, at)
        elif tag & 7 == 2:
            size, at = _varint(message, at)
            value, at = message[at : at + size], at + size
        else:
            raise UnknownFormatError
        yield tag >> 3, value


def _integers(message: bytes) -> dict[int, int]:
    return {number: value for number, value in _fields(message) if isinstance(value, int)}


def _varint(data: bytes, at: int) -> tuple[int, int]:
    result = shift = 0
    while True:
        if at >= len(data):
            raise UnknownFormatError
        byte = data[at]
        result |= (byte & 127) << shift
        at, shift = at + 1, shift + 7
        if byte < 128:
            return result, at


def _field(number: int, value: int | bytes) -> bytes:
    if isinstance(value, int):
        return _as_varint(number << 3) + _as_varint(value)
    return _as_varint(number << 3 | 2) + _as_varint(len(value)) + value


def _as_varint(value: int) -> bytes:
    result = bytearray()
    while value > 127:
        result.append(value & 127 | 128)
        value >>= 7
    result.append(value)
    return bytes(result)


def _framed(message: bytes) -> bytes:
    return struct.pack("<I", len(message)) + message
