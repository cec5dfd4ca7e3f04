"""`process.json`: what a thaw must know besides CRIU's own images."""

import re
import stat
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path

import msgspec
from vernal_contract import decoding
from vernal_contract.reasons import Reason

from vernal_worker.checkpoint.carry import Carried
from vernal_worker.checkpoint.errors import CheckpointError
from vernal_worker.checkpoint.reading_ahead import MappedFile
from vernal_worker.checkpoint.taken import PAGE, Memory

NAME = "process.json"
_MOST = (1 << 63) - 1  # of what the kernel takes for an offset
_MOST_PID = 1 << 22  # PID_MAX_LIMIT
_NOBODY = (1 << 32) - 1  # (uid_t) -1
_PIPE = re.compile(r"pipe:\[[0-9]{1,20}\]")

DATA = "files.bin"
"""Data of the carried files, one after the other."""

IMAGES = "criu"
"""Directory of CRIU's images."""


class Frozen(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A frozen tree."""

    root: int
    pids: tuple[int, ...]
    ids: tuple[int, ...]  # every number that must be free: processes, threads, process groups, sessions
    stdout: str  # CRIU's name of the pipe, e.g. "pipe:[4711]"
    stderr: str
    roots: tuple[str, ...]  # carried directories
    files: tuple[Carried, ...]
    memory: tuple[Memory, ...] = ()
    mapped: tuple[MappedFile, ...] = ()  # what CRIU looks at
    code: tuple[MappedFile, ...] = ()  # what the processes have used


def write(directory: Path, frozen: Frozen) -> None:
    (directory / NAME).write_bytes(msgspec.json.encode(frozen))


def decode(data: bytes, sizes: Mapping[str, int]) -> Frozen:
    """What `write` wrote, with numbers that a thaw can work with: it names processes by them, and makes as much as they
    say.

    Args:
        sizes: bytes of the files beside it, by name.

    Raises:
        CheckpointError: `MANIFEST_INVALID`, stage `files`.
    """
    try:
        frozen = decoding.json(data, Frozen)
    except msgspec.MsgspecError as e:
        raise _invalid(str(e)) from e
    if (problem := next(_problems(frozen, sizes), None)) is not None:
        raise _invalid(problem)
    return frozen


def _problems(frozen: Frozen, sizes: Mapping[str, int]) -> Iterator[str]:
    if not frozen.ids or not {frozen.root, *frozen.pids}.issubset(frozen.ids) or frozen.root not in frozen.pids:
        yield f"its processes {frozen.pids} with root {frozen.root} are not among its PIDs {frozen.ids}"
    if strange := [number for number in frozen.ids if not 1 < number <= _MOST_PID]:
        yield f"{strange[0]} is no PID of a process that can be frozen"
    if frozen.stdout == frozen.stderr or not all(map(_PIPE.fullmatch, (frozen.stdout, frozen.stderr))):
        yield f"its output goes to {frozen.stdout!r} and {frozen.stderr!r}, which are not two pipes"
    for entry in frozen.files:
        yield from _wrong_entry(entry)
    if (carried := sum(length for entry in frozen.files for _, length in entry.extents)) != sizes.get(DATA):
        yield f"{DATA} has {sizes.get(DATA)} bytes, of which its files have {carried}"
    named = [memory.file for memory in frozen.memory]
    for memory in frozen.memory:
        if memory.pid not in frozen.pids or named.count(memory.file) > 1 or memory.bytes != sizes.get(memory.file):
            yield f"{memory.file!r} is no memory of {memory.bytes} bytes of its process {memory.pid}"
        for address, pages in memory.runs:
            if pages < 1 or address < 0 or address % PAGE or address + pages * PAGE > _MOST:
                yield f"{memory.file}: {pages} pages at {address} are no memory"
    for file in (*frozen.mapped, *frozen.code):
        if "\0" in file.path or not all(at >= 0 and 0 <= size <= _MOST - at for at, size in file.ranges):
            yield f"{file.path!r} has no such ranges"


def _wrong_entry(entry: Carried) -> Iterator[str]:
    if "\0" in entry.path or "\0" in (entry.target or ""):
        yield f"{entry.path!r} is no path"
    if not (0 <= entry.mode < 1 << 16 and 0 <= entry.uid < _NOBODY and 0 <= entry.gid < _NOBODY):
        yield f"{entry.path}: mode {entry.mode:o}, owner {entry.uid}, group {entry.gid} cannot be"
    elif not stat.S_ISREG(entry.mode) and (entry.size or entry.extents):
        yield f"{entry.path} has data, and is no file"
    if not -_MOST <= entry.mtime_ns <= _MOST:
        yield f"{entry.path}: it cannot be of {entry.mtime_ns}"
    end = 0
    for offset, length in entry.extents:
        if offset < end or length < 1:
            yield f"{entry.path}: its data at {offset} cannot be"
        end = offset + length
    if not end <= entry.size <= _MOST:
        yield f"{entry.path}: it has {entry.size} bytes, and data up to {end}"


def confine(frozen: Frozen, roots: Collection[Path]) -> None:
    """Refuse a tree whose files are not all below `roots`, or whose names lead anywhere else when they are laid back in
    this order.

    Raises:
        CheckpointError: `MANIFEST_INVALID`, stage `files`.
    """
    if strange := set(map(Path, frozen.roots)) - set(roots):
        raise _invalid(f"it would write to {', '.join(sorted(map(str, strange)))}")
    directories = set(roots)
    regular: set[Path] = set()
    seen: set[Path] = set()
    for entry in frozen.files:
        path = Path(entry.path)
        if path in seen or (path in directories and not stat.S_ISDIR(entry.mode)):
            raise _invalid(f"{entry.path} is there twice")  # the first may be a link, where the second is expected
        seen.add(path)
        if ".." in path.parts or (path not in directories and path.parent not in directories):
            raise _invalid(f"{entry.path} is in no directory that it may write to")
        if stat.S_ISDIR(entry.mode):
            directories.add(path)
        elif stat.S_ISREG(entry.mode) and entry.target is None:
            regular.add(path)
        elif stat.S_ISREG(entry.mode) and Path(entry.target or "") not in regular:
            raise _invalid(f"{entry.path} is to be a link to {entry.target}, which is no file of it")
        elif not stat.S_ISREG(entry.mode) and not stat.S_ISLNK(entry.mode):
            raise _invalid(f"{entry.path} is neither file, directory nor link")


def _invalid(message: str) -> CheckpointError:
    return CheckpointError(Reason.MANIFEST_INVALID, "files", f"{NAME}: {message}")
