"""`process.json`: what a thaw must know besides CRIU's own images."""

from pathlib import Path

import msgspec
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


def read(directory: Path) -> Frozen:
    """Raises:
    CheckpointError: `FILE_MISSING` or `MANIFEST_INVALID`, stage `files`.
    """
    path = directory / NAME
    try:
        return msgspec.json.decode(path.read_bytes(), type=Frozen)
    except OSError as e:
        raise CheckpointError(Reason.FILE_MISSING, "files", f"cannot read {path}: {e.strerror}") from e
    except msgspec.MsgspecError as e:
        raise CheckpointError(Reason.MANIFEST_INVALID, "files", f"{path}: {e}") from e
