"""Standing between a loaded library and a function of libc that it calls: the addresses by which it finds that function
(its global offset table) are others for a moment. Linux with glibc, x86-64 and AArch64.

Formats: the ELF-64 object file format (https://refspecs.linuxfoundation.org/elf/gabi4+/contents.html) and its processor
supplements; `link_map` as dlinfo(3) and glibc's `link.h` have it.
"""

import ctypes
import mmap
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_RTLD_DI_LINKMAP = 2
_STRTAB, _SYMTAB, _RELA, _RELASZ, _PLTRELSZ, _JMPREL, _RELACOUNT = 5, 6, 7, 8, 2, 23, 0x6FFFFFF9
_BY_SYMBOL = {6, 7, 1025, 1026}
"""Kinds of relocation whose place holds a function's address: GLOB_DAT and JUMP_SLOT of x86-64 and of AArch64."""
_RELOCATION, _SYMBOL = struct.Struct("=QQq"), struct.Struct("=IBBHQQ")
_READ, _WRITE = 1, 2


class _LinkMap(ctypes.Structure):
    _fields_ = (
        ("base", ctypes.c_uint64),
        ("name", ctypes.c_char_p),
        ("dynamic", ctypes.c_uint64),
    )


class Interposer:
    """The places in one library where it has the address of one function."""

    def __init__(self, library: str, function: str) -> None:
        """`library`: as dlopen(3) takes it. It stays loaded.

        Raises:
            OSError: it cannot be loaded.
            LookupError: it does not call `function` by way of its table.
        """
        self._library = ctypes.CDLL(library)
        places = _places(self._library._handle, function.encode())
        self._places = [(place, _protection(place)) for place in places]  # now: a large process has many mappings
        if not self._places:
            raise LookupError(f"{library} has no place for the address of {function}")

    @contextmanager
    def by(self, address: int) -> Iterator[None]:
        """For the block, the library calls the function at `address` instead, on every thread.

        Raises: OSError: the kernel does not let the table be changed.
        """
        before = [ctypes.c_uint64.from_address(place).value for place, _ in self._places]
        try:
            for place, protection in self._places:
                _write(place, protection, address)
            yield
        finally:
            for (place, protection), value in zip(self._places, before, strict=True):
                _write(place, protection, value)


def _places(handle: int, function: bytes) -> Iterator[int]:
    found = ctypes.POINTER(_LinkMap)()
    if not hasattr(_libc, "dlinfo"):  # glibc before 2.34, where nothing has loaded libdl
        return
    if _libc.dlinfo(ctypes.c_void_p(handle), _RTLD_DI_LINKMAP, ctypes.byref(found)):
        return
    library = found.contents
    tags = dict(_dynamic(library.dynamic))

    def at(tag: int) -> int:
        value = tags.get(tag, 0)
        return value if value >= library.base else value + library.base  # glibc has made most of them addresses

    relative = tags.get(_RELACOUNT, 0) * _RELOCATION.size  # these come first, name nothing, and are many
    tables = [(at(_JMPREL), tags.get(_PLTRELSZ, 0)), (at(_RELA) + relative, tags.get(_RELASZ, 0) - relative)]
    for start, size in tables:
        if size <= 0:
            continue
        for offset, what, _ in _RELOCATION.iter_unpack(ctypes.string_at(start, size)):
            if what & 0xFFFFFFFF in _BY_SYMBOL:
                name, *_ = _SYMBOL.unpack(ctypes.string_at(at(_SYMTAB) + (what >> 32) * _SYMBOL.size, _SYMBOL.size))
                if ctypes.string_at(at(_STRTAB) + name) == function:
                    yield library.base + offset


def _dynamic(address: int) -> Iterator[tuple[int, int]]:
    while True:
        tag, value = struct.unpack("=QQ", ctypes.string_at(address, 16))
        if not tag:
            return
        yield tag, value
        address += 16


def _write(place: int, protection: int, value: int) -> None:
    """The loader leaves most of such tables read-only (RELRO)."""
    page = place & -mmap.PAGESIZE
    if not protection & _WRITE:
        _protect(page, protection | _WRITE)
    ctypes.c_uint64.from_address(place).value = value  # in one piece: others may be about to read it
    if not protection & _WRITE:
        _protect(page, protection)


def _protection(place: int) -> int:
    for line in Path("/proc/self/maps").read_text().splitlines():
        span, flags, *_ = line.split(maxsplit=2)
        start, end = (int(number, 16) for number in span.split("-"))
        if start <= place < end:
            return sum(bit for bit, flag in ((_READ, "r"), (_WRITE, "w"), (4, "x")) if flag in flags)
    raise OSError(f"nothing is mapped at {place:#x}")


def _protect(page: int, protection: int) -> None:
    if _libc.mprotect(ctypes.c_void_p(page), ctypes.c_size_t(mmap.PAGESIZE), protection):
        raise OSError(ctypes.get_errno(), "mprotect")


_libc = ctypes.CDLL(None, use_errno=True)
