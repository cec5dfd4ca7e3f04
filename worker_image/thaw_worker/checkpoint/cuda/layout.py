"""What of a frozen tree was GPU memory of the engine's own allocator: pure.

A rank's allocations in address order are its *segments*; those with a file are stored one after the other in it.
Offsets into the file and into the memory that is made anew for it are therefore the same.
"""

from collections.abc import Iterator, Sequence

import msgspec

OTHER_BYTES = "has other bytes than were written"
"""What the message says if a digest is not as it was."""

STORED = "weights"
"""Tag of segments whose content is stored. The others (the KV cache) come back empty."""


class Segment(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One allocation: its tag and its size in bytes, a multiple of the driver's granularity (2 MiB)."""

    tag: str
    size: int


class Rank(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One worker process of the engine, on the GPU of the same number."""

    file: str  # name of the file with the stored segments
    segments: tuple[Segment, ...]

    @property
    def stored(self) -> tuple[Segment, ...]:
        return tuple(segment for segment in self.segments if segment.tag == STORED)

    @property
    def bytes(self) -> int:
        """Size of the file."""
        return sum(segment.size for segment in self.stored)


class Memory(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Of a whole tree. `piece`: bytes that one digest stands for."""

    piece: int
    ranks: tuple[Rank, ...]


class Span(msgspec.Struct, frozen=True):
    """`length` bytes of segment number `index`, from `start` on."""

    index: int
    start: int
    length: int


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
