"""Memory that `images` took out of CRIU's images: what a thaw must know of it."""

import msgspec

PAGE = 4096

MEMORY = "memory-*.bin"
"""Names of the files of memory; the asterisk stands for a PID."""


class Memory(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A file of memory that was taken out of a process's image."""

    pid: int
    file: str
    runs: tuple[tuple[int, int], ...]
    """Address and number of pages, in the order in which they are in the file."""

    @property
    def bytes(self) -> int:
        return PAGE * sum(pages for _, pages in self.runs)
