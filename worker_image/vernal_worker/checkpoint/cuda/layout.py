"""What of a frozen tree was GPU memory of the engine's own allocator: pure.

A rank's allocations in address order are its *segments*; those that are stored follow one another in its files. Offsets
into what is stored and into the memory that is made anew for it are therefore the same.
"""

from collections.abc import Iterator, Sequence

import msgspec

STORED = "weights"
"""Tag of segments whose content is stored. The others (the KV cache) come back empty."""


FILE_BYTES = 4 << 30
"""Bytes of each of a rank's files but the last: most file systems let one thread at a time copy into a file,
which is slower than a disk. A multiple of any piece."""


class Segment(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One allocation: its tag and its size in bytes, a multiple of the driver's granularity (2 MiB)."""

    tag: str
    size: int


class Rank(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One worker process of the engine, on the GPU of the same number."""

    file: str  # what the names of its files begin with
    segments: tuple[Segment, ...]

    @property
    def stored(self) -> tuple[Segment, ...]:
        return tuple(segment for segment in self.segments if segment.tag == STORED)

    @property
    def bytes(self) -> int:
        """Size of all its files."""
        return sum(segment.size for segment in self.stored)

    @property
    def files(self) -> list[str]:
        """Their names."""
        return file_names(self.file, self.bytes)


class Memory(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Of a whole tree. `piece`: bytes that one digest stands for."""

    piece: int
    ranks: tuple[Rank, ...]


class Span(msgspec.Struct, frozen=True):
    """`length` bytes of segment number `index`, from `start` on."""

    index: int
    start: int
    length: int


def short(wanted: Sequence[int], free: Sequence[int]) -> list[int]:
    """Numbers of the GPUs that have less than the bytes wanted; none if it is not known what is free."""
    return [number for number, (want, have) in enumerate(zip(wanted, free, strict=False)) if want > have]


def file_names(file: str, size: int) -> list[str]:
    """Names of the files for `size` stored bytes of the rank whose names begin with `file`."""
    return [f"{file}-{number}.bin" for number in range((size + FILE_BYTES - 1) // FILE_BYTES)]


def in_turn(pieces: Sequence[tuple[int, int]]) -> list[int]:
    """Numbers of pieces (offset, length) in an order in which the files take turns."""
    return sorted(range(len(pieces)), key=lambda number: (pieces[number][0] % FILE_BYTES, pieces[number][0]))


def ranges(size: int, step: int) -> list[tuple[int, int]]:
    """Offset and length of each stretch of `step` bytes; the last may be shorter."""
    return [(offset, min(step, size - offset)) for offset in range(0, size, step)]


def spans(sizes: Sequence[int], offset: int, length: int) -> Iterator[Span]:
    """Which parts of segments with these sizes are at `offset` and the `length` bytes from there on, in order."""
    begin = 0
    for index, size in enumerate(sizes):
        start, end = max(offset, begin), min(offset + length, begin + size)
        if start < end:
            yield Span(index, start - begin, end - start)
        begin += size
