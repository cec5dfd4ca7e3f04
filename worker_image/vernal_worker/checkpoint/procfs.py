"""What /proc says about processes, in one pass."""

import mmap
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path

import msgspec

PROC = Path("/proc")

_PRESENT = bytes(byte >> 7 for byte in range(256))  # bit 63 of an entry of pagemap


class Process(msgspec.Struct, frozen=True):
    """One line of `/proc/<pid>/stat` (proc(5)), as far as it is needed."""

    pid: int
    comm: str
    state: str  # R, S, D, T (stopped), t (traced), Z (zombie), X
    ppid: int
    pgid: int
    sid: int


class FileArea(msgspec.Struct, frozen=True):
    """Where a process has mapped a file that still has its name: one line of `/proc/<pid>/maps`."""

    start: int
    end: int
    offset: int  # in the file
    path: str
    executable: bool = False


def read(pid: int) -> Process | None:
    """The process or thread `pid`, or None if there is none."""
    try:
        text = (PROC / str(pid) / "stat").read_text(errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return None
    # comm may hold spaces and parentheses: the last ")" ends it.
    head, _, tail = text.rpartition(")")
    state, ppid, pgid, sid = tail.split()[:4]
    return Process(pid, head.partition("(")[2], state, int(ppid), int(pgid), int(sid))


def scan() -> dict[int, Process]:
    """Every process of this PID namespace."""
    found = (read(int(entry.name)) for entry in PROC.iterdir() if entry.name.isdigit())
    return {p.pid: p for p in found if p is not None}


def threads(pid: int) -> list[int]:
    """Thread ids of a process, its own PID among them; empty if it is gone."""
    try:
        return [int(entry.name) for entry in (PROC / str(pid) / "task").iterdir()]
    except (FileNotFoundError, ProcessLookupError):
        return []


def file_areas(pid: int) -> list[FileArea]:
    """Files that a process has mapped, but for deleted ones; empty if it is gone."""
    try:
        lines = (PROC / str(pid) / "maps").read_text(errors="replace").splitlines()
    except (FileNotFoundError, ProcessLookupError):
        return []
    areas = []
    for line in lines:
        place, access, offset, _, _, *path = line.split(maxsplit=5)
        if path and path[0].startswith("/") and not path[0].endswith(" (deleted)"):
            start, _, end = place.partition("-")
            areas.append(FileArea(int(start, 16), int(end, 16), int(offset, 16), path[0], "x" in access))
    return areas


def references(pid: int) -> set[str]:
    """Paths of files and directories that a process has open, mapped, runs, or works in; empty if it is gone."""
    found = {area.path for area in file_areas(pid)}
    links = [PROC / str(pid) / name for name in ("exe", "cwd", "root")]
    return {path for path in found | set(_links([*links, *_descriptors(pid)])) if path.startswith("/")}


def sockets(pid: int) -> set[str]:
    """Inodes of a process's sockets."""
    targets = _links(_descriptors(pid))
    return {target.removeprefix("socket:[").removesuffix("]") for target in targets if target.startswith("socket:[")}


def _descriptors(pid: int) -> list[Path]:
    try:
        return list((PROC / str(pid) / "fd").iterdir())
    except (FileNotFoundError, ProcessLookupError):
        return []


def _links(paths: Iterable[Path]) -> Iterator[str]:
    for path in paths:
        with suppress(FileNotFoundError, ProcessLookupError):
            if not (target := str(path.readlink())).endswith(" (deleted)"):
                yield target


def used(pid: int, area: FileArea) -> Iterator[tuple[int, int]]:
    """Offsets in the file and lengths of what is in the process's page table: what it has used, and what the kernel put
    there along with it (`/proc/<pid>/pagemap`, proc(5)). Nothing if the process is gone."""
    page = mmap.PAGESIZE
    try:
        with (PROC / str(pid) / "pagemap").open("rb", buffering=0) as pagemap:
            pagemap.seek(area.start // page * 8)
            entries = pagemap.read((area.end - area.start) // page * 8)
    except (FileNotFoundError, ProcessLookupError):
        return
    present = entries[7::8].translate(_PRESENT)  # little endian: an entry's highest byte
    start = present.find(1)
    while start >= 0:
        end = present.find(0, start)
        end = end if end >= 0 else len(present)
        yield area.offset + start * page, (end - start) * page
        start = present.find(1, end)


def resident(pid: int) -> int:
    """Bytes of memory that are the process's own and not a clean page of a file; 0 if it is gone."""
    try:
        lines = (PROC / str(pid) / "status").read_text().splitlines()
    except (FileNotFoundError, ProcessLookupError):
        return 0
    return sum(int(line.split()[1]) << 10 for line in lines if line.startswith(("RssAnon:", "RssShmem:")))


def exists(pid: int) -> bool:
    """Whether there is a process or thread `pid`, zombies included."""
    return (PROC / str(pid)).exists()


def describe(pids: Iterable[int]) -> str:
    """PIDs with name and state, for messages."""
    known = ((pid, read(pid)) for pid in sorted(pids))
    return ", ".join(f"{pid} ({p.comm}, state {p.state})" if p else f"{pid}" for pid, p in known)
