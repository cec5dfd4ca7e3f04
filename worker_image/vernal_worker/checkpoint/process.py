"""`process.json`: what a thaw must know besides CRIU's own images."""

import stat
from collections.abc import Collection
from pathlib import Path

import msgspec
from vernal_contract import decoding
from vernal_contract.reasons import Reason

from vernal_worker.checkpoint.carry import Carried
from vernal_worker.checkpoint.errors import CheckpointError
from vernal_worker.checkpoint.images import Memory
from vernal_worker.checkpoint.mapped import MappedFile

NAME = "process.json"
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


def decode(data: bytes) -> Frozen:
    """Raises:
    CheckpointError: `MANIFEST_INVALID`, stage `files`.
    """
    try:
        return decoding.json(data, Frozen)
    except msgspec.MsgspecError as e:
        raise _invalid(str(e)) from e


def confine(frozen: Frozen, roots: Collection[Path]) -> None:
    """Refuse a tree whose files are not all below `roots`, or whose names lead anywhere else when they are laid back.

    Raises:
        CheckpointError: `MANIFEST_INVALID`, stage `files`.
    """
    if strange := set(map(Path, frozen.roots)) - set(roots):
        raise _invalid(f"it would write to {', '.join(sorted(map(str, strange)))}")
    directories = set(roots)
    regular: set[Path] = set()
    for entry in frozen.files:
        path = Path(entry.path)
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
    for memory in frozen.memory:
        if Path(memory.file).name != memory.file:
            raise _invalid(f"its memory is in {memory.file}")


def _invalid(message: str) -> CheckpointError:
    return CheckpointError(Reason.MANIFEST_INVALID, "files", f"{NAME}: {message}")
